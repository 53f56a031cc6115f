//! Who may ask for what: names, origins, the token, and how often.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::str::FromStr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use axum::Extension;
use axum::extract::{Request, State};
use axum::http::uri::Authority;
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Uri, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use subtle::ConstantTimeEq;

use super::connection::Ends;
use super::{Context, HttpError, HttpOptions, api};

/// What clients may take.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Limits {
    /// Connections at a time, of all clients.
    pub connections: usize,
    /// Connections at a time of one client on another machine.
    pub connections_per_peer: usize,
    /// Requests a second of one client, in the long run...
    pub requests_per_second: f64,
    /// ...and at once.
    pub burst: f64,
    /// Bytes of a request's line and headers; 8192 at least.
    pub header_bytes: usize,
    /// Bytes of a request's body.
    pub body_bytes: usize,
    /// A client has this long to send a request's headers, or the next request.
    pub header_timeout: Duration,
    /// A request has to be answered, or at least begun to be, in this time.
    pub request_timeout: Duration,
    /// A client who takes nothing of an answer for so long is let go.
    pub stall_timeout: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 256,
            connections_per_peer: 64,
            requests_per_second: 50.0,
            burst: 400.0,
            header_bytes: 16 * 1024,
            body_bytes: 64 * 1024,
            header_timeout: Duration::from_secs(5),
            request_timeout: Duration::from_secs(10),
            stall_timeout: Duration::from_secs(30),
        }
    }
}

/// The cookie that stands for the token in browsers.
const COOKIE: &str = "semblance_token";
/// A wall display should not have to be told again: a year, in seconds.
const COOKIE_AGE: u32 = 365 * 24 * 3600;
/// Clients that are remembered; beyond them, those that are idle are forgotten.
const MAX_IDLE_PEERS: usize = 1024;

/// Decides who may ask.
#[derive(Debug)]
pub(super) struct Guard {
    pub(super) limits: Limits,
    token: Option<Token>,
    hosts: Vec<String>,
    origins: Vec<String>,
    peers: Mutex<Peers>,
}

/// The token, which no log shows.
struct Token(String);

impl std::fmt::Debug for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Token")
    }
}

impl Token {
    /// Compares in a time that does not tell where the first difference is.
    fn is(&self, given: &str) -> bool {
        self.0.as_bytes().ct_eq(given.as_bytes()).into()
    }
}

#[derive(Debug, Default)]
struct Peers {
    connections: usize,
    known: HashMap<IpAddr, Peer>,
}

/// One client: its connections, and the requests it has left.
#[derive(Debug)]
struct Peer {
    connections: usize,
    left: f64,
    at: Instant,
}

impl Peer {
    fn new(limits: &Limits) -> Self {
        Self { connections: 0, left: limits.burst, at: Instant::now() }
    }

    fn refill(&mut self, limits: &Limits) {
        let now = Instant::now();
        let earned = now.duration_since(self.at).as_secs_f64() * limits.requests_per_second;
        (self.left, self.at) = ((self.left + earned).min(limits.burst), now);
    }
}

impl Guard {
    /// A guard by the names and origins of `options`, which asks for `token` where there is one.
    ///
    /// # Errors
    /// [`HttpError::HostName`] and [`HttpError::Origin`].
    pub(super) fn new(options: &HttpOptions, token: Option<String>) -> Result<Self, HttpError> {
        let host = |name: &String| match Authority::from_str(name) {
            Ok(authority) if authority.as_str() == authority.host() => Ok(name.to_ascii_lowercase()),
            _ => Err(HttpError::HostName(name.clone())),
        };
        let origin = |origin: &String| {
            let uri = Uri::from_str(origin).ok().filter(|_| !origin.ends_with('/'));
            match uri.map(Uri::into_parts) {
                Some(parts)
                    if parts.scheme.is_some() && parts.path_and_query.as_ref().is_none_or(|p| *p == "/") =>
                {
                    Ok(origin.to_ascii_lowercase())
                }
                _ => Err(HttpError::Origin(origin.clone())),
            }
        };
        Ok(Self {
            limits: options.limits,
            token: token.map(Token),
            hosts: options.allowed_hosts.iter().map(host).collect::<Result<_, _>>()?,
            origins: options.cors_origins.iter().map(origin).collect::<Result<_, _>>()?,
            peers: Mutex::default(),
        })
    }

    /// Whether there is room for one more connection of this client. If so, it counts until [`Self::dismiss`].
    pub(super) fn admit(&self, peer: IpAddr) -> bool {
        let mut peers = self.peers();
        if peers.connections >= self.limits.connections {
            return false;
        }
        if peers.known.len() > MAX_IDLE_PEERS {
            peers.known.retain(|_, peer| {
                peer.refill(&self.limits);
                peer.connections > 0 || peer.left < self.limits.burst
            });
        }
        let client = peers.known.entry(network(peer)).or_insert_with(|| Peer::new(&self.limits));
        if !peer.is_loopback() && client.connections >= self.limits.connections_per_peer {
            return false;
        }
        client.connections += 1;
        peers.connections += 1;
        true
    }

    /// A connection of this client has ended.
    pub(super) fn dismiss(&self, peer: IpAddr) {
        let mut peers = self.peers();
        peers.connections -= 1;
        if let Some(client) = peers.known.get_mut(&network(peer)) {
            client.connections -= 1;
        }
    }

    /// Connections that there are.
    pub(super) fn connections(&self) -> usize {
        self.peers().connections
    }

    /// Whether this client may ask once more now.
    fn spend(&self, peer: IpAddr) -> bool {
        let mut peers = self.peers();
        let client = peers.known.entry(network(peer)).or_insert_with(|| Peer::new(&self.limits));
        client.refill(&self.limits);
        let may = client.left >= 1.0;
        if may {
            client.left -= 1.0;
        }
        may
    }

    fn peers(&self) -> MutexGuard<'_, Peers> {
        self.peers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the server is called by one of its names. A page of a stranger's site that has its own name resolve to
    /// this machine (DNS rebinding) is not let in: it asks for the stranger's name.
    fn is_called(&self, host: &str, local: IpAddr) -> bool {
        let literal = host.strip_prefix('[').and_then(|h| h.strip_suffix(']')).unwrap_or(host);
        match IpAddr::from_str(literal) {
            Ok(ip) => ip.is_loopback() || ip.to_canonical() == local,
            Err(_) => {
                let name = host.to_ascii_lowercase();
                name == "localhost" || self.hosts.contains(&name)
            }
        }
    }

    /// Whether a request carries the token, in its header or as the cookie.
    fn is_authorised(&self, headers: &HeaderMap) -> bool {
        let Some(token) = &self.token else { return true };
        let bearer = headers.get(header::AUTHORIZATION).and_then(|value| {
            let (scheme, token) = value.to_str().ok()?.split_once(' ')?;
            scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
        });
        if let Some(given) = bearer {
            return token.is(given);
        }
        let cookies = headers.get_all(header::COOKIE).iter().filter_map(|value| value.to_str().ok());
        let pairs = cookies.flat_map(|value| value.split(';')).filter_map(|pair| pair.trim().split_once('='));
        pairs.filter(|(name, _)| *name == COOKIE).any(|(_, given)| token.is(given))
    }

    /// Whether `/` is asked for with the right token in its query.
    fn is_introduced(&self, uri: &Uri) -> bool {
        let Some(token) = self.token.as_ref().filter(|_| uri.path() == "/") else { return false };
        let mut pairs = uri.query().unwrap_or_default().split('&').filter_map(|pair| pair.split_once('='));
        pairs.any(|(name, given)| name == "token" && token.is(given))
    }

    fn cookie(&self) -> Option<HeaderValue> {
        let Token(token) = self.token.as_ref()?;
        let cookie = format!("{COOKIE}={token}; Path=/; Max-Age={COOKIE_AGE}; HttpOnly; SameSite=Strict");
        HeaderValue::try_from(cookie).ok()
    }

    /// The refusal that a request gets, if it gets one.
    fn refuse(&self, ends: &Ends, request: &Request) -> Option<Response> {
        if !self.spend(ends.peer) {
            let sentence = "You ask too often: wait a second.";
            let refusal = api::error(StatusCode::TOO_MANY_REQUESTS, sentence);
            return Some(with(refusal, header::RETRY_AFTER, HeaderValue::from_static("1")));
        }
        let headers = request.headers();
        let host = match host(request) {
            Ok(host) => host,
            Err(sentence) => return Some(api::error(StatusCode::BAD_REQUEST, sentence)),
        };
        if !self.is_called(host.host(), ends.local) {
            let name = host.host();
            let sentence = format!(
                "'{name}' is no name of this server: start it with --http-host {name} if it should be."
            );
            return Some(api::error(StatusCode::MISDIRECTED_REQUEST, &sentence));
        }
        if let Some(origin) = headers.get(header::ORIGIN)
            && !is_own(origin, &host)
            && self.foreign_origin(headers).is_none()
        {
            let sentence =
                "Pages of other origins may not ask: start the server with --cors ORIGIN if this one may.";
            return Some(api::error(StatusCode::FORBIDDEN, sentence));
        }
        if request.method() == Method::OPTIONS && headers.contains_key(header::ACCESS_CONTROL_REQUEST_METHOD)
        {
            let allowed = [
                (header::ACCESS_CONTROL_ALLOW_METHODS, "GET, PUT, POST, DELETE"),
                (header::ACCESS_CONTROL_ALLOW_HEADERS, "Authorization, Content-Type"),
                (header::ACCESS_CONTROL_MAX_AGE, "600"),
            ];
            return Some((StatusCode::NO_CONTENT, allowed).into_response());
        }
        if !self.is_authorised(headers) {
            if self.is_introduced(request.uri()) {
                let mut welcome = (StatusCode::SEE_OTHER, [(header::LOCATION, "/")]).into_response();
                if let Some(cookie) = self.cookie() {
                    welcome.headers_mut().insert(header::SET_COOKIE, cookie);
                }
                return Some(welcome);
            }
            let sentence = "This server asks for its token: send 'Authorization: Bearer TOKEN', or open /?token=TOKEN once in a browser.";
            let refusal = api::error(StatusCode::UNAUTHORIZED, sentence);
            return Some(with(
                refusal,
                header::WWW_AUTHENTICATE,
                HeaderValue::from_static("Bearer realm=\"semblance\""),
            ));
        }
        let length = headers.get(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse().ok());
        if length.is_some_and(|length: usize| length > self.limits.body_bytes) {
            let sentence = format!("The request's body is longer than {} bytes.", self.limits.body_bytes);
            return Some(api::error(StatusCode::PAYLOAD_TOO_LARGE, &sentence));
        }
        None
    }

    /// The request's origin, where it is one that may read from this server.
    fn foreign_origin(&self, headers: &HeaderMap) -> Option<HeaderValue> {
        let origin = headers.get(header::ORIGIN)?;
        let text = origin.to_str().ok()?.to_ascii_lowercase();
        self.origins.contains(&text).then(|| origin.clone())
    }
}

/// Stands before every route.
pub(super) async fn check(
    State(context): State<Arc<Context>>,
    Extension(ends): Extension<Ends>,
    request: Request,
    next: Next,
) -> Response {
    let guard = &context.guard;
    let foreign = guard.foreign_origin(request.headers());
    let response = match guard.refuse(&ends, &request) {
        Some(refusal) => refusal,
        None => match tokio::time::timeout(guard.limits.request_timeout, next.run(request)).await {
            Ok(response) => response,
            Err(_) => api::error(StatusCode::REQUEST_TIMEOUT, "The request took too long."),
        },
    };
    harden(response, foreign)
}

/// Adds what tells browsers to be strict.
fn harden(mut response: Response, foreign: Option<HeaderValue>) -> Response {
    const STRICT: [(HeaderName, &str); 4] = [
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::X_FRAME_OPTIONS, "DENY"),
        (header::REFERRER_POLICY, "no-referrer"),
        (header::CACHE_CONTROL, "no-store"),
    ];
    const RESOURCE_POLICY: HeaderName = HeaderName::from_static("cross-origin-resource-policy");
    let headers = response.headers_mut();
    for (name, value) in STRICT {
        headers.insert(name, HeaderValue::from_static(value));
    }
    headers
        .entry(header::CONTENT_SECURITY_POLICY)
        .or_insert(HeaderValue::from_static("default-src 'none'; frame-ancestors 'none'"));
    let policy = match foreign {
        Some(origin) => {
            headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin);
            "cross-origin"
        }
        None => "same-origin",
    };
    headers.insert(RESOURCE_POLICY, HeaderValue::from_static(policy));
    headers.append(header::VARY, HeaderValue::from_static("Origin"));
    response
}

fn with(mut response: Response, name: HeaderName, value: HeaderValue) -> Response {
    response.headers_mut().insert(name, value);
    response
}

/// The name and port that a request asks for.
fn host(request: &Request) -> Result<Authority, &'static str> {
    if let Some(authority) = request.uri().authority() {
        return Ok(authority.clone());
    }
    let mut values = request.headers().get_all(header::HOST).iter();
    let (Some(value), None) = (values.next(), values.next()) else {
        return Err("A request needs one Host header.");
    };
    let authority = value.to_str().ok().and_then(|text| Authority::from_str(text).ok());
    authority.filter(|a| !a.as_str().contains('@')).ok_or("The Host header is malformed.")
}

/// Whether an origin is that of this server's own pages: it is reached by the same name and port.
fn is_own(origin: &HeaderValue, host: &Authority) -> bool {
    let origin = origin.to_str().unwrap_or_default();
    let authority = origin.strip_prefix("http://").or_else(|| origin.strip_prefix("https://"));
    authority.is_some_and(|authority| authority.eq_ignore_ascii_case(host.as_str()))
}

/// What counts as one client: an IPv4 address, or the 64 bits of an IPv6 address that one household shares.
fn network(peer: IpAddr) -> IpAddr {
    match peer {
        IpAddr::V4(_) => peer,
        IpAddr::V6(v6) => Ipv6Addr::from_bits(v6.to_bits() >> 64 << 64).into(),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn guard(change: impl FnOnce(&mut HttpOptions)) -> Result<Guard, HttpError> {
        let mut options = HttpOptions::new("127.0.0.1:0".parse().unwrap());
        change(&mut options);
        Guard::new(&options, Some("t".repeat(32)))
    }

    #[test]
    fn only_its_own_names_are_answered_to() {
        let guard = guard(|o| o.allowed_hosts = vec!["Camera.local".to_owned()]).unwrap();
        let local: IpAddr = "192.168.1.5".parse().unwrap();
        for host in
            ["localhost", "LOCALHOST", "127.0.0.1", "127.8.8.8", "[::1]", "192.168.1.5", "camera.LOCAL"]
        {
            assert!(guard.is_called(host, local), "{host}");
        }
        for host in
            ["evil.example", "localhost.evil.example", "192.168.1.6", "127.0.0.1.evil.example", "", "[::2]"]
        {
            assert!(!guard.is_called(host, local), "{host}");
        }
    }

    #[test]
    fn names_and_origins_have_a_form() {
        for host in ["http://x", "x:80", "a b", "", "me@x"] {
            let refused = guard(|o| o.allowed_hosts = vec![host.to_owned()]);
            assert!(matches!(refused, Err(HttpError::HostName(_))), "{host}");
        }
        for origin in ["example.org", "*", "https://a/", "https://a/b", "null", "https://a?b"] {
            let refused = guard(|o| o.cors_origins = vec![origin.to_owned()]);
            assert!(matches!(refused, Err(HttpError::Origin(_))), "{origin}");
        }
        assert!(guard(|o| o.cors_origins = vec!["https://a:8443".to_owned()]).is_ok());
    }

    #[test]
    fn the_token_is_found_in_header_cookie_and_query() {
        let guard = guard(|_| {}).unwrap();
        let token = "t".repeat(32);
        let given = |name: HeaderName, value: &str| {
            let headers = HeaderMap::from_iter([(name, HeaderValue::from_str(value).unwrap())]);
            guard.is_authorised(&headers)
        };
        assert!(given(header::AUTHORIZATION, &format!("Bearer {token}")));
        assert!(given(header::AUTHORIZATION, &format!("bearer  {token}")));
        assert!(given(header::COOKIE, &format!("a=b; {COOKIE}={token}; c=d")));
        for wrong in
            [format!("Bearer {token}t"), format!("Basic {token}"), token.clone(), "Bearer ".to_owned()]
        {
            assert!(!given(header::AUTHORIZATION, &wrong), "{wrong}");
        }
        assert!(!given(header::COOKIE, &format!("x{COOKIE}={token}")));
        assert!(!guard.is_authorised(&HeaderMap::new()));
        let introduced = |uri: String| guard.is_introduced(&uri.parse().unwrap());
        assert!(introduced(format!("/?a=b&token={token}")));
        assert!(
            !introduced(format!("/v1/state?token={token}"))
                && !introduced(format!("/?token={}", &token[1..]))
        );
        assert!(!format!("{guard:?}").contains("ttt"), "no log shows it");
    }

    #[test]
    fn a_client_has_its_share_and_no_more() {
        let limits = Limits {
            connections: 5,
            connections_per_peer: 2,
            requests_per_second: 20.0,
            burst: 3.0,
            ..Limits::default()
        };
        let guard = guard(|o| o.limits = limits).unwrap();
        let [a, b, local]: [IpAddr; 3] = ["10.0.0.1", "10.0.0.2", "127.0.0.1"].map(|ip| ip.parse().unwrap());
        assert!(guard.admit(a) && guard.admit(a) && !guard.admit(a), "two of one client");
        assert!(guard.admit(b) && guard.admit(local) && guard.admit(local), "the others have theirs");
        assert!(!guard.admit(local) && !guard.admit(b), "five of all");
        guard.dismiss(a);
        assert!(guard.admit(local) && guard.connections() == 5);
        assert!((0..3).all(|_| guard.spend(a)) && !guard.spend(a) && guard.spend(b));
        std::thread::sleep(Duration::from_millis(120));
        assert!(guard.spend(a) && guard.spend(a), "20 a second come back");
        let (x, y): (IpAddr, IpAddr) = ("2001:db8::1".parse().unwrap(), "2001:db8::ffff:1".parse().unwrap());
        assert_eq!(network(x), network(y));
    }
}
