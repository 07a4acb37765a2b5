//! Signals, links and terminals, which each system has in its own way.
//!
//! | file | system |
//! |---|---|
//! | `unix` | Linux, macOS |
//! | `windows` | Windows |

#[cfg(unix)]
mod unix;
#[cfg(windows)]
mod windows;

#[cfg(unix)]
pub(crate) use unix::{
    Signals, columns_of_stderr, file_of, is_link_to, is_unchanged_link, link, runs,
};
#[cfg(windows)]
pub(crate) use windows::{
    Signals, columns_of_stderr, file_of, is_link_to, is_unchanged_link, link, runs,
};
