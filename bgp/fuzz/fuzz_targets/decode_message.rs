//! Any octets in any context are read without panic and with little memory; what is read can be written, and says the
//! same when it is read again. An UPDATE is read as the reference reads it (`tests/reference`), and one fault more never costs
//! its sender less.
//!
//! The first two octets choose the context, the third the message type, the rest is the body.
//! `integration/fuzz` builds and runs it on a stable compiler.

#![no_main]

use bytes::BytesMut;
use libfuzzer_sys::fuzz_target;
use margay_bgp::codec::{
    CodecContext, DecodeError, EncodeError, Message, Notification, Update, decode, framing,
};
use margay_bgp_fuzz::{Counting, context, hold_against_reference, memory_of, severity};

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Memory an octet of a message may cost: the shortest prefix has one octet there and 28 here, and its list is there twice where
/// it becomes one of withdrawals. And what a message takes however short it is.
const MEMORY: (usize, usize) = (64, 4096);

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

/// A well-known attribute of no known type before all others costs the routes, whatever else is wrong.
fn add_fault(octets: &[u8], context: &CodecContext, result: &Result<Message, DecodeError>) {
    let number = |at: usize| usize::from(u16::from_be_bytes([octets[at], octets[at + 1]]));
    let list = 21 + number(19);
    let most = context.max_receive_len().min(octets.len() + 3);
    if list + 2 > octets.len() || list + 2 + number(list) > octets.len() || most < octets.len() + 3
    {
        return;
    }
    let mut worse = octets.to_vec();
    worse.splice(list + 2..list + 2, [0x40, 240, 0]);
    for field in [16, list] {
        let longer = u16::try_from(number(field) + 3).unwrap_or(u16::MAX);
        worse[field..field + 2].copy_from_slice(&longer.to_be_bytes());
    }
    let worse = severity(&decode(&worse, context));
    assert!(
        worse >= severity(result).max(2),
        "one fault more costs {worse}, without it {}",
        severity(result)
    );
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

    let (result, memory) = memory_of(|| decode(&octets, &context));
    let (each, fixed) = MEMORY;
    assert!(
        memory <= each * octets.len() + fixed,
        "{memory} octets of memory for {}",
        octets.len()
    );
    if octets[18] == 2 && octets.len() >= 23 && octets.len() <= context.max_receive_len() {
        hold_against_reference(&octets, &context, &result);
        add_fault(&octets, &context, &result);
    }
    let message = match result {
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
