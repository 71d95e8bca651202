//! Where a node tells what it does.

use super::Key;
use super::value::factor;

/// Where traces go, and which commands are traced.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct TelemetrySettings {
    /// The URL of a collector that takes OTLP over gRPC; `None` for nowhere.
    pub otlp_endpoint: Option<String>,
    /// The share of the commands that come without a trace that are traced, 0 to 1.
    pub sampling: f64,
}

/// The keys, as documented.
pub(super) const KEYS: &[Key] = &[
    Key {
        name: "telemetry.otlp.endpoint",
        default: "",
        doc: "Where traces of commands go: the URL of an OpenTelemetry collector that takes OTLP \
              over gRPC, such as \"http://127.0.0.1:4317\". Empty means nowhere. The image can do \
              it; other programs have to be built with the feature otlp.",
        set: |settings, text| {
            settings.telemetry.otlp_endpoint = match text {
                "" => None,
                url if ["http://", "https://"]
                    .iter()
                    .any(|start| url.starts_with(start)) =>
                {
                    Some(url.to_owned())
                }
                _ => return Err("a URL that starts with http:// or https://".to_owned()),
            };
            Ok(())
        },
    },
    Key {
        name: "telemetry.otlp.sampling",
        default: "0.001",
        doc: "The share of commands that are traced if their client does not say whether they \
              are to be (a traceparent decides). Raise it to see more; each traced command takes \
              time to write down and send.",
        set: |settings, text| {
            settings.telemetry.sampling = factor(text, 0.0..=1.0)?;
            Ok(())
        },
    },
];
