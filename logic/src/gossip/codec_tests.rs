use super::*;
use proptest::prelude::*;

fn extreme() -> Report {
    Report {
        health: Health::Unhealthy,
        queue_depth: u32::MAX,
        in_flight: u32::MAX,
        slots: Some(u32::MAX),
        tokens_per_second: Some(f32::MAX),
        latency_p95_ms: Some(u32::MAX),
        ttft_ms: Some(u32::MAX),
        rtt_ms: Some(u32::MAX),
        backoff_ms: u32::MAX,
        breaker_open: true,
    }
}

fn any_report() -> impl Strategy<Value = Report> {
    let figures = (any::<u32>(), any::<u32>(), any::<Option<u32>>(), any::<Option<f32>>());
    let times = (any::<Option<u32>>(), any::<Option<u32>>(), any::<Option<u32>>(), any::<u32>());
    (0..4u8, figures, times, any::<bool>()).prop_map(|(health, figures, times, breaker_open)| Report {
        health: [Health::Unknown, Health::Healthy, Health::Loading, Health::Unhealthy][usize::from(health)],
        queue_depth: figures.0,
        in_flight: figures.1,
        slots: figures.2,
        tokens_per_second: figures.3,
        latency_p95_ms: times.0,
        ttft_ms: times.1,
        rtt_ms: times.2,
        backoff_ms: times.3,
        breaker_open,
    })
}

fn raw(version: u8, body: &[u8]) -> String {
    base64::encode(&[&[version], body].concat())
}

#[test]
fn a_report_comes_back_rounded_to_two_digits() {
    let report = Report {
        health: Health::Healthy,
        queue_depth: 7,
        in_flight: 42,
        slots: Some(4),
        tokens_per_second: Some(31.7),
        latency_p95_ms: Some(1_237),
        ttft_ms: Some(999),
        rtt_ms: Some(12),
        backoff_ms: 0,
        breaker_open: false,
    };
    let read = decode_report(&encode_report(&report, 3, VERSION)).unwrap();
    let expected =
        Report { tokens_per_second: Some(32.0), latency_p95_ms: Some(1_200), ttft_ms: Some(1_000), ..report };
    assert_eq!(read, expected);
    assert_eq!(quantised(&report), expected);
}

#[test]
fn the_largest_report_fits_its_bound() {
    let text = encode_report(&extreme(), u8::MAX, VERSION);
    assert!(base64::decode(&text).unwrap().len() <= REPORT_BYTES_MAX);
    assert_eq!(decode_report(&text).unwrap().health, Health::Unhealthy);
}

#[test]
fn the_beat_changes_the_text_and_nothing_else() {
    let report = Report::default();
    assert_ne!(encode_report(&report, 1, VERSION), encode_report(&report, 2, VERSION));
    assert_eq!(
        decode_report(&encode_report(&report, 1, VERSION)),
        decode_report(&encode_report(&report, 2, VERSION))
    );
}

#[test]
fn a_speed_that_is_no_number_is_told_as_unknown() {
    for speed in [f32::NAN, f32::INFINITY, -1.0] {
        let report = Report { tokens_per_second: Some(speed), ..Report::default() };
        assert_eq!(decode_report(&encode_report(&report, 0, VERSION)).unwrap().tokens_per_second, None);
    }
}

#[test]
fn malformed_reports_each_have_their_error() {
    assert_eq!(decode_report(""), Err(CodecError::Text));
    assert_eq!(decode_report("!!!!"), Err(CodecError::Text));
    assert_eq!(decode_report(&raw(3, &[0; 10])), Err(CodecError::Version { found: 3, reads: 2 }));
    assert_eq!(decode_report(&"A".repeat(2_000)), Err(CodecError::Oversized(2_000)));
    let good = base64::decode(&encode_report(&extreme(), 0, 1)).unwrap();
    for cut in 1..good.len() {
        let text = base64::encode(&good[..cut]);
        assert!(matches!(decode_report(&text), Err(CodecError::Body(_))), "cut to {cut} bytes");
    }
    let longer = base64::encode(&[&good[..], &[0]].concat());
    assert_eq!(decode_report(&longer), Err(CodecError::Body("1 bytes too many".into())));
    let mut odd_health = good;
    odd_health[2] = 9;
    assert_eq!(
        decode_report(&base64::encode(&odd_health)),
        Err(CodecError::Body("there is no health 9".into()))
    );
}

#[test]
fn a_hostile_length_is_refused_without_allocating() {
    // A list of 2^36 models; a name of 2^60 bytes.
    for body in [&[253, 0, 0, 0, 0, 16, 0, 0, 0][..], &[1, 253, 0, 0, 0, 0, 0, 0, 0, 16]] {
        assert!(matches!(decode_models(&raw(FIRST, body)), Err(CodecError::Body(_))));
    }
}

#[test]
fn models_come_back_with_window_and_capabilities() {
    let models = [
        ServedModel { context_window: Some(4096), ..ServedModel::named("tinyllama") },
        ServedModel {
            capabilities: Capabilities::new(["embedding", "code"]),
            ..ServedModel::named("bge/small:q8")
        },
    ];
    let read = decode_models(&encode_models(&models)).unwrap();
    assert_eq!(read[0], models[0]);
    assert_eq!(&*read[1].name, "bge/small:q8");
    assert_eq!(
        read[1].capabilities,
        Capabilities::new(["embedding"]),
        "own words of an operator stay at home"
    );
    assert_eq!(decode_models(&encode_models(&[])).unwrap(), []);
}

#[test]
fn a_long_list_of_models_is_cut_between_names() {
    let models: Vec<ServedModel> = (0..200).map(|n| ServedModel::named(format!("model-{n:03}"))).collect();
    let text = encode_models(&models);
    assert!(text.len() <= MODELS_TEXT_MAX);
    let read = decode_models(&text).unwrap();
    assert!(read.len() > 30, "was {}", read.len());
    assert_eq!(read[..], models[..read.len()]);
    assert_eq!(decode_models(&encode_models(&[ServedModel::named("x".repeat(5_000))])).unwrap(), []);
}

#[test]
fn a_node_comes_back_and_its_long_fields_do_not() {
    let node = NodeFact {
        region: Region::new("us-west-2"),
        version: "0.1.0".into(),
        http_address: Some("10.0.0.1:8080".into()),
    };
    assert_eq!(decode_node(&encode_node(&node)), Ok(node.clone()));
    let long = NodeFact { http_address: Some("x".repeat(500)), version: "v".repeat(500), ..node };
    let read = decode_node(&encode_node(&long)).unwrap();
    assert_eq!((read.http_address, read.version.as_str()), (None, ""));
    assert_eq!(decode_node(&raw(7, b"")), Err(CodecError::Version { found: 7, reads: 1 }));
}

#[test]
fn rounding_keeps_two_digits() {
    for (figure, rounded) in
        [(0, 0), (99, 99), (100, 100), (104, 100), (105, 110), (994, 990), (995, 1000), (u32::MAX, u32::MAX)]
    {
        assert_eq!(two_digits(figure), rounded);
    }
}

#[test]
fn the_version_before_is_read_like_this_one() {
    for version in [VERSION_MIN, VERSION] {
        let text = encode_report(&extreme(), 3, version);
        assert_eq!(base64::decode(&text).unwrap()[0], version);
        assert_eq!(decode_report(&text), Ok(quantised(&extreme())));
    }
}

#[test]
fn a_later_writers_fields_and_words_are_ignored_and_its_next_version_is_refused() {
    let ours = base64::decode(&encode_report(&extreme(), 0, VERSION)).unwrap();
    let mut later = [&ours[..], b"three fields this node never heard of"].concat();
    assert_eq!(decode_report(&base64::encode(&later)), Ok(quantised(&extreme())));
    later[2] = 9;
    assert_eq!(decode_report(&base64::encode(&later)).unwrap().health, Health::Unknown);
    later[0] = VERSION + 1;
    let refused = Err(CodecError::Version { found: 3, reads: 2 });
    assert_eq!(decode_report(&base64::encode(&later)), refused);
    later[0] = 0;
    assert_eq!(decode_report(&base64::encode(&later)), Err(CodecError::Version { found: 0, reads: 2 }));
    for cut in 1..ours.len() {
        assert!(decode_report(&base64::encode(&ours[..cut])).is_err(), "cut to {cut} bytes");
    }
}

#[test]
fn what_is_written_is_what_the_oldest_peer_reads() {
    assert_eq!(version_for([]), VERSION);
    assert_eq!(version_for([2, 1, 2]), 1);
    assert_eq!(version_for([2, 2]), 2);
    assert_eq!(version_for([9]), VERSION, "a newer peer reads ours");
    assert_eq!(version_for([0]), VERSION_MIN);
    let told = crate::gossip::fact::Payload::of(&Reads::OURS).unwrap();
    assert_eq!(Reads::read(&told), Ok(Reads::OURS));
}

proptest! {
    #[test]
    fn every_report_fits_and_comes_back_quantised(report in any_report(), beat: u8) {
        let text = encode_report(&report, beat, VERSION);
        prop_assert!(base64::decode(&text).unwrap().len() <= REPORT_BYTES_MAX);
        prop_assert_eq!(decode_report(&text), Ok(quantised(&report)));
    }

    #[test]
    fn any_text_is_decoded_or_refused(text in ".{0,80}", base in "[A-Za-z0-9_-]{0,600}") {
        for text in [text, base] {
            let _ = (decode_report(&text), decode_models(&text), decode_node(&text));
        }
    }

    #[test]
    fn any_body_is_decoded_or_refused(body in proptest::collection::vec(any::<u8>(), 0..300)) {
        for version in 0..4 {
            let text = raw(version, &body);
            let _ = (decode_report(&text), decode_node(&text));
            if let Ok(models) = decode_models(&text) {
                prop_assert!(models.len() <= body.len());
            }
        }
    }

    #[test]
    fn lists_of_models_always_fit(names in proptest::collection::vec("[a-z0-9:/._-]{1,300}", 0..40), window: Option<u32>) {
        let models: Vec<ServedModel> = names
            .into_iter()
            .map(|name| ServedModel { context_window: window, ..ServedModel::named(name) })
            .collect();
        let text = encode_models(&models);
        prop_assert!(text.len() <= MODELS_TEXT_MAX);
        let read = decode_models(&text).unwrap();
        prop_assert_eq!(&read[..], &models[..read.len()]);
    }

    #[test]
    fn every_node_fact_is_readable_by_peers(region in "[a-z0-9-]{0,200}", version in "[0-9.]{0,200}", address in proptest::option::of("[a-z0-9.:]{0,200}")) {
        let node = NodeFact { region: Region::new(region), version, http_address: address };
        prop_assert!(decode_node(&encode_node(&node)).is_ok());
    }
}
