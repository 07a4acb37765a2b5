//! All end-to-end tests, as one program.

mod e2e;
