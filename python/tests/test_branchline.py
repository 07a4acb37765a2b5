"""Tests of the installed package, beside git and the development server.

Environment variables: ``SOURCE``, the URL of a git server's repository; ``SOURCE_PATH``, its path on
the disk; ``TARGET``, a prefix in S3; ``ENDPOINT``, the development server.
"""

import importlib.resources
import io
import os
import subprocess
import sys
import tarfile
import tempfile
import unittest
import zipfile
from unittest import mock

import branchline

SOURCE = os.environ["SOURCE"]
SOURCE_PATH = os.environ["SOURCE_PATH"]
TARGET = os.environ["TARGET"]
ENDPOINT = os.environ["ENDPOINT"]


def git_archive(revision: str, *arguments: str) -> bytes:
    command = ["git", "-C", SOURCE_PATH, "archive", *arguments, revision]
    return subprocess.run(command, check=True, capture_output=True).stdout


def zip_entries(data: bytes) -> dict[str, tuple[bytes, int]]:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        return {
            entry.filename: (archive.read(entry), entry.external_attr)
            for entry in archive.infolist()
        }


class Mirrors(unittest.TestCase):
    def test_a_pair_is_mirrored_and_then_unchanged(self) -> None:
        pair = (SOURCE, f"{TARGET}/pair")
        [first] = branchline.mirror_repos([pair], layout="dumb", verify=True, endpoint_url=ENDPOINT)
        self.assertEqual(first.status, "complete")
        self.assertTrue(first.verified)
        self.assertIsNone(first.error)
        self.assertGreater(first.refs.created, 0)
        self.assertGreater(first.objects, 0)
        [second] = branchline.mirror_repos([pair], endpoint_url=ENDPOINT)
        self.assertIsNone(second.verified, "nothing was compared")
        self.assertEqual(second.refs.created, 0)
        self.assertEqual(second.refs.unchanged, first.refs.created)
        self.assertEqual(second.objects, 0)

    def test_results_are_in_the_order_of_the_mappings(self) -> None:
        targets = [f"{TARGET}/order-{number}" for number in range(6)]
        pairs = ((SOURCE, target) for target in targets)
        results = branchline.mirror_repos(pairs, jobs=3, endpoint_url=ENDPOINT)
        self.assertEqual([result.target for result in results], targets)

    def test_a_mapping_may_have_options_of_its_own(self) -> None:
        mapping: branchline.MappingOptions = {
            "source": SOURCE,
            "target": f"{TARGET}/options",
            "refs": ["refs/heads/main"],
        }
        [result] = branchline.mirror_repos([mapping], endpoint_url=ENDPOINT)
        self.assertEqual(result.refs.created, 1)

    def test_a_failure_has_its_kind_and_does_not_stop_the_others(self) -> None:
        missing = SOURCE.rsplit("/", 1)[0] + "/missing.git"
        pairs = [(missing, f"{TARGET}/none"), (SOURCE, f"{TARGET}/beside")]
        with self.assertRaises(branchline.NotFoundError) as raised:
            branchline.mirror_repos(pairs, endpoint_url=ENDPOINT)
        failed, done = raised.exception.results
        self.assertEqual((failed.status, done.status), ("failed", "complete"))
        self.assertIs(failed.error, raised.exception)
        self.assertIn("missing.git", str(raised.exception))

    def test_a_remote_of_no_known_kind_is_named(self) -> None:
        with self.assertRaises(branchline.BranchlineError) as raised:
            branchline.mirror_repos([("ftp://example.org/x", f"{TARGET}/x")], endpoint_url=ENDPOINT)
        self.assertIn(f"{TARGET}/x", str(raised.exception))
        self.assertIn("`https://`", str(raised.exception))
        self.assertIsNotNone(raised.exception.kind)

    def test_an_error_of_the_iterable_is_raised_after_the_mappings_before_it(self) -> None:
        def pairs():
            yield (SOURCE, f"{TARGET}/before")
            raise LookupError("the list broke off")

        with self.assertRaisesRegex(LookupError, "the list broke off"):
            branchline.mirror_repos(pairs(), endpoint_url=ENDPOINT)
        [again] = branchline.mirror_repos([(SOURCE, f"{TARGET}/before")], endpoint_url=ENDPOINT)
        self.assertEqual(again.refs.created, 0, "the mapping before the error was done")

    def test_what_is_not_a_pair_is_refused(self) -> None:
        for wrong in ("s3://a/b", (SOURCE,), (SOURCE, TARGET, "third")):
            with self.assertRaises(TypeError):
                branchline.mirror_repos([wrong], endpoint_url=ENDPOINT)  # type: ignore[list-item]

    def test_no_mappings_have_no_results(self) -> None:
        self.assertEqual(branchline.mirror_repos([], endpoint_url=ENDPOINT), [])

    def test_wrong_options_say_why(self) -> None:
        with self.assertRaisesRegex(branchline.BranchlineError, "1..=64"):
            branchline.mirror_repos([(SOURCE, TARGET)], jobs=0, endpoint_url=ENDPOINT)


class Archives(unittest.TestCase):
    def test_a_returned_archive_equals_that_of_git(self) -> None:
        data = branchline.archive(SOURCE, "main")
        self.assertEqual(zip_entries(data), zip_entries(git_archive("main", "--format=zip")))

    def test_a_mirror_is_archived_from_the_bucket(self) -> None:
        target = f"{TARGET}/archived"
        branchline.mirror_repos([(SOURCE, target)], endpoint_url=ENDPOINT)
        data = branchline.archive(target, "main", format="tar", endpoint_url=ENDPOINT)
        self.assertEqual(data, git_archive("main", "--format=tar"))

    def test_a_file_is_written_in_the_format_of_its_name(self) -> None:
        with tempfile.TemporaryDirectory() as folder:
            path = os.path.join(folder, "demo.tar.gz")
            written = branchline.archive(SOURCE, "main", output=path, prefix="demo/")
            self.assertIsNone(written)
            with tarfile.open(path, "r:gz") as archive:
                self.assertTrue(all(name.split("/")[0] == "demo" for name in archive.getnames()))

    def test_a_missing_revision_is_not_found_and_leaves_no_file(self) -> None:
        with tempfile.TemporaryDirectory() as folder:
            path = os.path.join(folder, "demo.zip")
            with self.assertRaisesRegex(branchline.NotFoundError, "nowhere"):
                branchline.archive(SOURCE, "nowhere", output=path)
            self.assertEqual(os.listdir(folder), [])

    def test_a_server_that_does_not_answer_is_a_transport_error(self) -> None:
        with self.assertRaises(branchline.TransportError):
            branchline.archive("http://127.0.0.1:1/r.git", "main")

    def test_an_unknown_format_is_refused(self) -> None:
        with self.assertRaisesRegex(ValueError, "rar"):
            branchline.archive(SOURCE, "main", format="rar")  # type: ignore[call-overload]

    def test_a_name_that_begins_with_a_dash_is_no_option(self) -> None:
        with self.assertRaises(branchline.BranchlineError):
            branchline.archive("--list", "main")


class Package(unittest.TestCase):
    def test_the_package_is_typed(self) -> None:
        self.assertTrue(importlib.resources.files(branchline).joinpath("py.typed").is_file())

    def test_the_program_is_that_of_the_environment(self) -> None:
        self.assertEqual(
            os.path.realpath(os.path.dirname(branchline.find_program())),
            os.path.realpath(os.path.dirname(sys.executable)),
        )

    def test_the_module_runs_as_the_program(self) -> None:
        ran = subprocess.run(
            [sys.executable, "-m", "branchline", "--version"],
            check=True,
            capture_output=True,
            text=True,
        )
        self.assertRegex(ran.stdout, r"^branchline \d+\.\d+\.\d+")

    def test_a_missing_program_says_how_to_repair_the_installation(self) -> None:
        with (
            mock.patch("os.path.isfile", return_value=False),
            mock.patch("shutil.which", return_value=None),
            self.assertRaisesRegex(branchline.ProgramMissingError, "reinstall"),
        ):
            branchline.find_program()

    def test_each_kind_has_an_exception(self) -> None:
        kinds = {
            error.kind
            for error in branchline.BranchlineError.__subclasses__()
            if error.kind is not None
        }
        self.assertEqual(kinds, set(os.environ["KINDS"].split(",")))


if __name__ == "__main__":
    unittest.main()
