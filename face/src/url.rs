//! What of a URL may be shown: in logs, in errors, to whoever asks over the network.

/// The URL without what may be secret in it: user, password, query and fragment. The options of an `mqtt://` address are this
/// project's own, and stay. What is no URL stays as it is.
///
/// People write passwords with `/`, `?`, quotes and `@` in them, so all up to the last `@` is taken for a login: rather an odd
/// name than a password in a log.
pub fn public(url: &str) -> String {
    let Some((scheme, rest)) = url.split_once("://") else { return url.to_owned() };
    let place = rest.rsplit_once('@').map_or(rest, |(_, place)| place);
    let shown = if scheme == "mqtt" { place } else { place.split(['?', '#']).next().unwrap_or_default() };
    format!("{scheme}://{shown}")
}

/// A text with every URL in it as [`public`] shows it. A URL ends at a space here: for texts that were made of public URLs,
/// and of what others said.
pub fn public_in(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for word in text.split_inclusive(char::is_whitespace) {
        let url = word.trim_end();
        shown.push_str(&public(url));
        shown.push_str(&word[url.len()..]);
    }
    shown
}

/// Host and port of a URL, as `host` or `host:port`; empty where it has none.
pub fn authority(url: &str) -> &str {
    let rest = url.split_once("://").map_or("", |(_, rest)| rest);
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    authority.rsplit_once('@').map_or(authority, |(_, place)| place)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_may_be_secret_is_not_shown() {
        for (url, shown) in [
            ("demo", "demo"),
            ("jsonl:a@b", "jsonl:a@b"),
            ("http://host/video.mjpg", "http://host/video.mjpg"),
            ("rtsp://user:pass@10.0.0.7:554/h264?token=x#f", "rtsp://10.0.0.7:554/h264"),
            ("rtsp://user:p/w?d@d@host/a", "rtsp://host/a"),
            ("rtsp://user:it's \"<b>@host/a", "rtsp://host/a"),
            ("udp://@239.0.0.1:1234", "udp://239.0.0.1:1234"),
            ("mqtt://u:p@h/a?rate=2", "mqtt://h/a?rate=2"),
        ] {
            assert_eq!(public(url), shown);
        }
        let text = "mqtt://u:p@h: refused;  rtsp://v@i/x?key=k too, a@b";
        assert_eq!(public_in(text), "mqtt://h: refused;  rtsp://i/x too, a@b");
    }

    #[test]
    fn authorities_are_where_a_client_connects() {
        for (url, place) in [
            ("rtsp://me:pw@10.0.0.7:554/a@b?c@d", "10.0.0.7:554"),
            ("http://cam?mail=a@b", "cam"),
            ("rtsp://[::1]/x", "[::1]"),
            ("demo", ""),
        ] {
            assert_eq!(authority(url), place);
        }
    }
}
