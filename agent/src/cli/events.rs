//! `margay events`.

use anyhow::{Context, Result};

use super::args::{EventsArgs, Output};
use super::{answered, client, print, table, yaml};
use crate::server::answer::{Event, Request};

/// Shows what happened, and with `--follow` what happens.
///
/// # Errors
/// No daemon answers, or the terminal is gone.
pub(super) fn run(args: EventsArgs) -> Result<()> {
    let request = Request::Events {
        after: args.after,
        peer: args.name,
        follow: args.follow,
    };
    if !args.follow {
        answered::<Vec<Event>>(&args.ask, &request, |events, _| draw(events))?;
        return Ok(());
    }
    client::follow(&args.ask.run_dir, &request, |value| {
        let events: Vec<Event> = serde_json::from_value(value)
            .context("the daemon's answer is not understood; is it of another version?")?;
        for event in &events {
            print(&match args.ask.output {
                Output::Table | Output::Wide => line(event) + "\n",
                Output::Json => serde_json::to_string(event)? + "\n",
                Output::Yaml => format!("---\n{}", yaml(&serde_json::to_value(event)?)?),
            })?;
        }
        Ok(())
    })
}

fn draw(events: &[Event]) -> String {
    let rows: Vec<Vec<String>> = events
        .iter()
        .map(|event| {
            vec![
                event.time.clone(),
                event.peer.clone(),
                what(event),
                event.by.clone().unwrap_or_default(),
                event.reason.clone().unwrap_or_default(),
            ]
        })
        .collect();
    table::draw(&["TIME", "PEER", "EVENT", "BY", "REASON"], &rows)
}

fn what(event: &Event) -> String {
    match (&event.from, &event.to) {
        (Some(from), Some(to)) => format!("{from} -> {to}"),
        _ => event.kind.clone(),
    }
}

fn line(event: &Event) -> String {
    let mut line = format!("{} {} {}", event.time, event.peer, what(event));
    if let Some(reason) = &event.reason {
        line.push_str(": ");
        line.push_str(reason);
    }
    if let Some(by) = &event.by {
        line.push_str(&format!(" ({by})"));
    }
    line
}
