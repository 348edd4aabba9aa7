//! Any octets in any context are read without panic; what is read can be written, and says the
//! same when it is read again.
//!
//! The first two octets choose the context, the third the message type, the rest is the body.
//! `integration/fuzz` builds and runs it on a stable compiler.

#![no_main]

use bytes::BytesMut;
use libfuzzer_sys::fuzz_target;
use margay_bgp::codec::{
    CodecContext, EncodeError, Message, Notification, Update, decode, framing,
};
use margay_bgp_fuzz::context;

fn reread(octets: &[u8], context: &CodecContext) -> Update {
    let mut buffer = BytesMut::from(octets);
    let mut all = Update::default();
    while let Some(frame) =
        framing::split(&mut buffer, context.max_receive_len()).expect("written messages are framed")
    {
        let Ok(Message::Update(update)) = decode(&frame.octets, context) else {
            panic!("an UPDATE became something else");
        };
        assert!(update.faults.is_empty(), "{:?}", update.faults);
        all.withdrawn.extend(update.withdrawn);
        all.announced.extend(update.announced);
        all.attributes = all.attributes.or(update.attributes);
        all.end_of_rib = all.end_of_rib.or(update.end_of_rib);
    }
    assert!(buffer.is_empty());
    all
}

fuzz_target!(|data: &[u8]| {
    let [high, low, kind, body @ ..] = data else {
        return;
    };
    let context = context(u16::from_be_bytes([*high, *low]));
    let mut octets = vec![0xff; 16];
    octets.extend(
        u16::try_from(body.len() + 19)
            .unwrap_or(u16::MAX)
            .to_be_bytes(),
    );
    octets.push(kind % 6);
    octets.extend(body);

    let message = match decode(&octets, &context) {
        Ok(message) => message,
        Err(error) => {
            let mut out = BytesMut::new();
            Notification::from(&error).encode(&context, &mut out);
            assert!(out.len() <= context.max_send_len());
            return;
        }
    };
    let mut out = BytesMut::new();
    match message.encode(&context, &mut out) {
        Ok(()) => {}
        Err(EncodeError::AttributesTooLong { .. }) => return,
        Err(error) => panic!("{error}"),
    }
    let Message::Update(first) = message else {
        assert_eq!(decode(&out, &context), Ok(message));
        return;
    };
    assert!(first.announced.is_empty() || !first.was_treated_as_withdraw());
    let mut again = reread(&out, &context);
    let mut expected = first;
    // What was wrong with the octets is not said again.
    expected.faults.clear();
    (expected.disabled, expected.malformed) = Default::default();
    expected.malformed = None;
    // Lists are cut and families grouped on the way.
    expected.withdrawn.sort_unstable();
    again.withdrawn.sort_unstable();
    let routes = |update: &mut Update| {
        let announced = std::mem::take(&mut update.announced);
        let mut routes: Vec<_> = announced
            .into_iter()
            .flat_map(|one| one.nlri.into_iter().map(move |nlri| (one.next_hop, nlri)))
            .collect();
        routes.sort_unstable();
        routes
    };
    assert_eq!(routes(&mut again), routes(&mut expected));
    assert_eq!(again, expected);
});
