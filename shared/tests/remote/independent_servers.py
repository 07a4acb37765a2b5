"""Serves bare repositories over git's smart HTTP protocol with dulwich, which shares no code with
git. Prints the port of 127.0.0.1 that it listens on; it ends with its standard input."""

import os
import sys
import threading
from wsgiref.simple_server import WSGIRequestHandler, make_server

from dulwich.repo import Repo
from dulwich.server import DictBackend
from dulwich.web import make_wsgi_chain


class Quiet(WSGIRequestHandler):
    def log_message(self, *arguments):
        pass


backend = DictBackend({"/r.git": Repo(sys.argv[1])})
server = make_server("127.0.0.1", 0, make_wsgi_chain(backend), handler_class=Quiet)
print(server.server_port, flush=True)
threading.Thread(target=server.serve_forever, daemon=True).start()
sys.stdin.read()
os._exit(0)
