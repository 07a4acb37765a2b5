//! No code: its manifest lists the features that all tests of the workspace enable together.
