//! Health from probes.
