//! A network between namespaces in user space: what `tc netem` does, on kernels that lack it.
//!
//! Each namespace gets one TUN device. The switch reads packets from all of them, decides by the direction they
//! travel in what becomes of each (delay, jitter, loss, rate, size, nothing at all) and writes them to the device
//! their address belongs to. Rules change while it runs, over a Unix socket.
//!
//! ```text
//! llm-router-chaos-switch --socket FILE --port NAME=NAMESPACE,DEVICE,NETWORK/BITS …
//! ```
//!
//! One thread; it owns the devices and the packets under way, and never looks into a packet beyond its header.

mod control;
mod link;
mod packets;
mod system;

use control::Control;
use packets::Network;
use std::io;
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::process::ExitCode;

/// How to call it, for those who did it otherwise.
const USAGE: &str =
    "usage: llm-router-chaos-switch --socket FILE --port NAME=NAMESPACE,DEVICE,NETWORK/BITS …";

/// One namespace of the network.
#[derive(Debug, PartialEq, Eq)]
struct Port {
    name: String,
    namespace: PathBuf,
    device: String,
    network: Ipv4Addr,
    bits: u8,
}

#[expect(clippy::print_stderr, clippy::print_stdout, reason = "a program tells its caller")]
fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let Some((socket, ports)) = parse(&arguments) else {
        eprintln!("{USAGE}");
        return ExitCode::from(64);
    };
    match serve(&socket, ports, || println!("ready")) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

/// The socket and the ports, or nothing where a word is wrong.
fn parse(arguments: &[String]) -> Option<(PathBuf, Vec<Port>)> {
    let mut socket = None;
    let mut ports: Vec<Port> = Vec::new();
    for pair in arguments.chunks(2) {
        let [key, value] = pair else { return None };
        match key.as_str() {
            "--socket" => socket = Some(PathBuf::from(value)),
            "--port" => {
                let (name, rest) = value.split_once('=')?;
                let [namespace, device, network] = rest.split(',').collect::<Vec<_>>()[..] else {
                    return None;
                };
                let (network, bits) = network.split_once('/')?;
                let (network, bits) = (network.parse().ok()?, bits.parse().ok().filter(|bits| *bits <= 32)?);
                let (name, device) = (name.to_owned(), device.to_owned());
                if ports.iter().any(|port| port.name == name) {
                    return None;
                }
                ports.push(Port { name, namespace: namespace.into(), device, network, bits });
            }
            _ => return None,
        }
    }
    (!ports.is_empty()).then_some((socket?, ports))
}

/// Carries packets until the process is told to end.
fn serve(socket: &std::path::Path, ports: Vec<Port>, ready: impl FnOnce()) -> io::Result<()> {
    let mut devices = Vec::new();
    for port in &ports {
        let device = system::open_tun(&port.namespace, &port.device).map_err(|error| {
            let (device, namespace) = (&port.device, port.namespace.display());
            io::Error::other(format!("cannot make device `{device}` in `{namespace}`: {error}"))
        })?;
        devices.push(device);
    }
    let mut network = Network::new(ports, devices);
    let mut control = Control::listen(socket)?;
    ready();
    loop {
        let mut watched = network.files();
        let devices = watched.len();
        watched.extend(control.files());
        let ready = system::wait(&watched, network.next_due())?;
        for (index, _) in ready.iter().enumerate().take(devices).filter(|(_, ready)| **ready) {
            network.read(index);
        }
        if ready[devices..].contains(&true) {
            control.serve(&mut network);
        }
        network.deliver();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> Vec<String> {
        text.split(' ').map(str::to_owned).collect()
    }

    #[test]
    fn a_port_has_a_name_a_namespace_a_device_and_a_network() {
        let (socket, ports) = parse(&words("--socket s --port a=/run/netns/a,wan0,10.77.1.0/24")).unwrap();
        assert_eq!(socket, PathBuf::from("s"));
        let network = "10.77.1.0".parse().unwrap();
        let (namespace, device) = (PathBuf::from("/run/netns/a"), "wan0".to_owned());
        assert_eq!(ports, [Port { name: "a".to_owned(), namespace, device, network, bits: 24 }]);
    }

    #[test]
    fn half_a_pair_no_port_two_ports_of_one_name_and_unknown_words_are_refused() {
        for wrong in [
            "--socket",
            "--socket s",
            "--port a=n,d,10.0.0.0/8",
            "--socket s --port a=n,d,10.0.0.0/33",
            "--socket s --port a=n,d,10.0.0.0",
            "--socket s --port a=n,d,10.0.0.0/8 --port a=n,d,11.0.0.0/8",
            "--socket s --port a=n,d,10.0.0.0/8 --fast yes",
        ] {
            assert_eq!(parse(&words(wrong)), None, "{wrong}");
        }
    }
}
