//! The terminal that a command prints to.

/// Returns the columns of the terminal behind standard output; none if it is not a terminal.
#[expect(
    unsafe_code,
    reason = "the system call has no safe wrapper in use; it writes into the structure only"
)]
pub(super) fn columns() -> Option<usize> {
    let mut size = libc::winsize { ws_row: 0, ws_col: 0, ws_xpixel: 0, ws_ypixel: 0 };
    // SAFETY: the kernel writes a `winsize`, and the pointer is to one.
    let result = unsafe { libc::ioctl(libc::STDOUT_FILENO, libc::TIOCGWINSZ, &raw mut size) };
    (result == 0 && size.ws_col > 0).then_some(usize::from(size.ws_col))
}
