//! The system calls that the standard library has no name for.

#![expect(
    unsafe_code,
    reason = "TUN devices, namespaces and ppoll have no safe interface in the standard library"
)]

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

/// A new TUN device of that name in the namespace behind the path; the process itself stays where it is.
///
/// # Errors
/// Without the right to enter the namespace or to make a device, or if the name is taken or too long.
pub(crate) fn open_tun(namespace: &Path, name: &str) -> io::Result<File> {
    let home = File::open("/proc/self/ns/net")?;
    enter(&File::open(namespace)?)?;
    let device = make_device(name);
    enter(&home)?;
    device
}

fn enter(namespace: &File) -> io::Result<()> {
    // SAFETY: the descriptor is open for the whole call, and the call has no other argument that could be wrong.
    let result = unsafe { libc::setns(namespace.as_raw_fd(), libc::CLONE_NEWNET) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

fn make_device(name: &str) -> io::Result<File> {
    if name.len() >= libc::IFNAMSIZ {
        return Err(io::Error::other("the name of a device is too long"));
    }
    let mut options = OpenOptions::new();
    let file = options.read(true).write(true).custom_flags(libc::O_NONBLOCK).open("/dev/net/tun")?;
    // SAFETY: `ifreq` is a structure of numbers; all zeros is one of its values.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *to = from as libc::c_char;
    }
    request.ifr_ifru.ifru_flags = (libc::IFF_TUN | libc::IFF_NO_PI) as libc::c_short;
    // SAFETY: the descriptor is open, and `request` is a whole `ifreq` that lives through the call.
    let result = unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNSETIFF, &raw mut request) };
    if result == 0 { Ok(file) } else { Err(io::Error::last_os_error()) }
}

/// Waits until one of the files can be read or the time, in nanoseconds, is over; which of them can.
///
/// # Errors
/// If the system refuses to wait.
pub(crate) fn wait(files: &[RawFd], nanoseconds: Option<u64>) -> io::Result<Vec<bool>> {
    let mut watched: Vec<libc::pollfd> =
        files.iter().map(|fd| libc::pollfd { fd: *fd, events: libc::POLLIN, revents: 0 }).collect();
    let time = nanoseconds.map(|nanoseconds| libc::timespec {
        tv_sec: (nanoseconds / 1_000_000_000) as libc::time_t,
        tv_nsec: (nanoseconds % 1_000_000_000) as libc::c_long,
    });
    let time = time.as_ref().map_or(std::ptr::null(), std::ptr::from_ref);
    // SAFETY: the array and its length belong together, the time lives until the end of this function or is null,
    // and a null mask leaves the signals as they are.
    let result =
        unsafe { libc::ppoll(watched.as_mut_ptr(), watched.len() as libc::nfds_t, time, std::ptr::null()) };
    if result < 0 {
        let error = io::Error::last_os_error();
        return if error.kind() == io::ErrorKind::Interrupted {
            Ok(vec![false; files.len()])
        } else {
            Err(error)
        };
    }
    Ok(watched.iter().map(|file| file.revents != 0).collect())
}
