//! The kinds of machines that programs are built for.

/// The oldest C library of GNU that a program may find: that of `manylinux2014`, 2012.
const GLIBC: &str = "2.17";

/// A kind of machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Target {
    #[value(name = "x86_64-unknown-linux-gnu")]
    X86Gnu,
    #[value(name = "aarch64-unknown-linux-gnu")]
    ArmGnu,
    #[value(name = "x86_64-unknown-linux-musl")]
    X86Musl,
    #[value(name = "aarch64-unknown-linux-musl")]
    ArmMusl,
}

impl Target {
    pub(super) const ALL: [Self; 4] = [Self::X86Gnu, Self::ArmGnu, Self::X86Musl, Self::ArmMusl];

    /// Returns Rust's name of the target.
    pub(super) fn triple(self) -> &'static str {
        match self {
            Self::X86Gnu => "x86_64-unknown-linux-gnu",
            Self::ArmGnu => "aarch64-unknown-linux-gnu",
            Self::X86Musl => "x86_64-unknown-linux-musl",
            Self::ArmMusl => "aarch64-unknown-linux-musl",
        }
    }

    /// Returns the target with the version of the C library, as cargo-zigbuild reads it.
    pub(super) fn for_zig(self) -> String {
        if self.is_static() {
            self.triple().to_owned()
        } else {
            format!("{}.{GLIBC}", self.triple())
        }
    }

    /// Returns whether programs have their C library in them, and run on every Linux.
    pub(super) fn is_static(self) -> bool {
        matches!(self, Self::X86Musl | Self::ArmMusl)
    }

    /// Returns the tag of wheels, by which pip chooses one.
    pub(super) fn platform(self) -> &'static str {
        match self {
            Self::X86Gnu => "manylinux_2_17_x86_64",
            Self::ArmGnu => "manylinux_2_17_aarch64",
            Self::X86Musl => "musllinux_1_2_x86_64",
            Self::ArmMusl => "musllinux_1_2_aarch64",
        }
    }

    /// Returns AWS Lambda's name of the processor, if functions are built for this target.
    pub(super) fn lambda(self) -> Option<&'static str> {
        match self {
            Self::X86Gnu => Some("x86_64"),
            Self::ArmGnu => Some("arm64"),
            Self::X86Musl | Self::ArmMusl => None,
        }
    }
}
