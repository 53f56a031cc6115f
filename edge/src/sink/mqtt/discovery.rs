//! What Home Assistant is told of the device: one retained message an entity.

use serde_json::{Value, json};

use super::{EXPIRE, MqttSpec};
use crate::prediction::Labels;

/// The messages that let Home Assistant find the device.
#[derive(Debug)]
pub(super) struct Announcement {
    /// Topics and their retained payloads; an empty one takes an entity away that an earlier bundle had.
    pub(super) messages: Vec<(String, Vec<u8>)>,
    /// Where Home Assistant says that it has started, and wants to hear everything again.
    pub(super) status_topic: Option<String>,
}

impl Announcement {
    /// What there is to be said of a device with these labels; nothing where discovery is off.
    pub(super) fn new(spec: &MqttSpec, labels: &Labels) -> Self {
        let Some(discovery) = spec.discovery() else {
            return Self { messages: Vec::new(), status_topic: None };
        };
        let node = spec.node();
        let message = |(component, object, entity): (&str, &str, Option<Value>)| {
            let payload = entity.map(|entity| complete(entity, object, spec, labels));
            let bytes = payload.map_or_else(Vec::new, |payload| payload.to_string().into_bytes());
            (format!("{discovery}/{component}/{node}/{object}/config"), bytes)
        };
        Self {
            messages: entities(labels).into_iter().map(message).collect(),
            status_topic: Some(format!("{discovery}/status")),
        }
    }
}

/// Component, object and what is particular of every entity that we know of; none of those that the bundle does not give.
fn entities(labels: &Labels) -> [(&'static str, &'static str, Option<Value>); 6] {
    let mut expressions: Vec<&str> = labels.expression.iter().map(String::as_str).collect();
    // Home Assistant's word for nothing is None, which would be unknown: that nobody is there is known.
    expressions.push("none");
    let expression = json!({
        "name": "Expression",
        "icon": "mdi:emoticon-outline",
        "device_class": "enum",
        "options": expressions,
        "value_template": "{{ value_json.expression.label if value_json.expression else 'none' }}",
    });
    let scale = |name: &str, icon: &str, field: &str| {
        json!({
            "name": name,
            "icon": icon,
            "state_class": "measurement",
            "suggested_display_precision": 2,
            "value_template": format!("{{{{ value_json.{field} | default(none) }}}}"),
        })
    };
    let valence_arousal = labels.valence_arousal;
    [
        (
            "binary_sensor",
            "person",
            Some(json!({
                "name": "Person",
                "device_class": "occupancy",
                "value_template": "{{ 'ON' if value_json.faces > 0 else 'OFF' }}",
            })),
        ),
        ("sensor", "expression", (!labels.expression.is_empty()).then_some(expression)),
        (
            "sensor",
            "valence",
            valence_arousal.then(|| scale("Valence", "mdi:emoticon-happy-outline", "valence")),
        ),
        ("sensor", "arousal", valence_arousal.then(|| scale("Arousal", "mdi:pulse", "arousal"))),
        (
            "sensor",
            "faces",
            Some(json!({
                "name": "Faces",
                "icon": "mdi:account-multiple",
                "state_class": "measurement",
                "value_template": "{{ value_json.faces }}",
            })),
        ),
        (
            "sensor",
            "fps",
            Some(json!({
                "name": "Frame rate",
                "icon": "mdi:speedometer",
                "state_class": "measurement",
                "unit_of_measurement": "fps",
                "suggested_display_precision": 1,
                "entity_category": "diagnostic",
                "value_template": "{{ value_json.fps | default(none) }}",
            })),
        ),
    ]
}

/// Adds what all entities share.
fn complete(mut entity: Value, object: &str, spec: &MqttSpec, labels: &Labels) -> Value {
    let node = spec.node();
    entity["unique_id"] = json!(format!("semblance_{node}_{object}"));
    entity["state_topic"] = json!(spec.topic("state"));
    entity["availability_topic"] = json!(spec.topic("available"));
    // A state that is due less often does not expire in between.
    entity["expire_after"] = json!(EXPIRE.max(spec.interval() * 3).as_secs());
    entity["device"] = json!({
        "identifiers": [format!("semblance_{node}")],
        "name": format!("Semblance {}", spec.prefix()),
        "manufacturer": "Semblance",
        "model": labels.bundle,
        "sw_version": env!("CARGO_PKG_VERSION"),
    });
    entity["origin"] = json!({ "name": "Semblance", "sw_version": env!("CARGO_PKG_VERSION") });
    entity
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::collections::BTreeSet;

    use super::*;

    fn announcement(spec: &str, labels: &Labels) -> Announcement {
        Announcement::new(&spec.parse().unwrap(), labels)
    }

    #[test]
    fn entities_are_unique_and_only_those_that_the_bundle_gives() {
        let labels = Labels {
            bundle: "default".to_owned(),
            expression: vec!["neutral".to_owned(), "happy".to_owned()],
            ..Labels::default()
        };
        let told = announcement("mqtt://h/home/desk", &labels);
        assert_eq!(told.status_topic.as_deref(), Some("homeassistant/status"));
        let (mut ids, mut topics, mut gone) = (BTreeSet::new(), BTreeSet::new(), Vec::new());
        for (topic, payload) in &told.messages {
            assert!(topics.insert(topic));
            if payload.is_empty() {
                gone.push(topic.as_str());
                continue;
            }
            let entity: Value = serde_json::from_slice(payload).unwrap();
            assert!(ids.insert(entity["unique_id"].as_str().unwrap().to_owned()));
            assert_eq!(entity["availability_topic"], "home/desk/available");
            assert_eq!(entity["device"]["identifiers"], json!(["semblance_home_desk"]));
        }
        assert_eq!(ids.len(), 4);
        assert_eq!(
            gone,
            [
                "homeassistant/sensor/home_desk/valence/config",
                "homeassistant/sensor/home_desk/arousal/config"
            ]
        );
        let full = Labels { valence_arousal: true, ..labels };
        let told = announcement("mqtt://h/a?rate=0.02&discovery=ha", &full);
        assert!(told.messages.iter().all(|(topic, payload)| topic.starts_with("ha/") && !payload.is_empty()));
        let entity: Value = serde_json::from_slice(&told.messages[1].1).unwrap();
        assert_eq!(
            (&entity["options"], &entity["expire_after"]),
            (&json!(["neutral", "happy", "none"]), &json!(150))
        );
    }

    #[test]
    fn discovery_can_be_off() {
        let told = announcement("mqtt://h/a?discovery=off", &Labels::default());
        assert!(told.messages.is_empty() && told.status_topic.is_none());
    }
}
