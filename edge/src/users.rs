//! Whose face is read, and with which heads. Both can be changed while a run goes on; a frame sees either the ones before or
//! the ones after.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use semblance_calib::profile::{Opened, ProfileError, Profiles, UserName};
use semblance_calib::{Heads, HeadsError};
use thiserror::Error;

/// Why a user could not be chosen.
#[derive(Debug, Error)]
pub enum UsersError {
    /// The profile cannot be read.
    #[error(transparent)]
    Profile(#[from] ProfileError),
    /// The profile's heads are for other embeddings than this bundle's encoder gives, or overflow.
    #[error("the profile of '{user}': {reason}")]
    Heads {
        /// The user.
        user: UserName,
        /// What is wrong with them.
        reason: String,
    },
}

/// What faces are read with.
#[derive(Clone, Debug, PartialEq)]
pub struct Reading {
    /// Whose face every face is taken for.
    pub user: Option<Arc<str>>,
    /// The heads.
    pub heads: Heads,
    /// Whether the heads are the user's own, and not the shipped ones.
    pub adapted: bool,
}

/// The reading of now, swapped whole.
#[derive(Debug)]
pub struct InForce(Mutex<Arc<Reading>>);

impl InForce {
    /// The shipped heads, for anybody.
    pub fn new(shipped: Heads) -> Self {
        Self(Mutex::new(Arc::new(Reading { user: None, heads: shipped, adapted: false })))
    }

    /// The reading of now. Allocates nothing.
    pub fn now(&self) -> Arc<Reading> {
        Arc::clone(&self.lock())
    }

    fn put(&self, reading: Reading) {
        *self.lock() = Arc::new(reading);
    }

    fn lock(&self) -> MutexGuard<'_, Arc<Reading>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The users of a device, and the one whose face is read.
#[derive(Debug)]
pub struct Users {
    profiles: Profiles,
    shipped: Heads,
    /// SHA-256 of the encoder, by which a profile knows whether it belongs to the bundle.
    encoder: String,
    in_force: Arc<InForce>,
}

impl Users {
    /// Nobody in particular, read with the `shipped` heads of a bundle whose encoder has the SHA-256 `encoder`.
    pub fn new(shipped: Heads, encoder: &str, profiles: Profiles) -> Self {
        let in_force = Arc::new(InForce::new(shipped.clone()));
        Self { profiles, shipped, encoder: encoder.to_owned(), in_force }
    }

    /// What the pipeline reads faces with.
    pub fn in_force(&self) -> &Arc<InForce> {
        &self.in_force
    }

    /// The shipped heads, which labels are for and a fit starts from.
    pub fn shipped(&self) -> &Heads {
        &self.shipped
    }

    /// SHA-256 of the encoder.
    pub fn encoder(&self) -> &str {
        &self.encoder
    }

    /// Their profiles.
    pub fn profiles(&self) -> &Profiles {
        &self.profiles
    }

    /// The users that have a profile, in order.
    ///
    /// # Errors
    /// [`UsersError::Profile`].
    pub fn known(&self) -> Result<Vec<UserName>, UsersError> {
        Ok(self.profiles.users()?)
    }

    /// Takes every face for this user's from the next frame on, and reads it with the heads of the user's profile; with
    /// `None`, with the shipped ones. They stay, too, where there is no profile or it is for another encoder: a person who is
    /// not known yet is read. What should be known of that is given back, a sentence each.
    ///
    /// # Errors
    /// [`UsersError`]; nothing has changed then.
    pub fn choose(&self, user: Option<&UserName>) -> Result<Vec<String>, UsersError> {
        let mut notes = Vec::new();
        let own = match user {
            Some(user) => self.heads_of(user, &mut notes)?,
            None => None,
        };
        self.in_force.put(Reading {
            user: user.map(|user| user.as_str().into()),
            adapted: own.is_some(),
            heads: own.unwrap_or_else(|| self.shipped.clone()),
        });
        Ok(notes)
    }

    fn heads_of(&self, user: &UserName, notes: &mut Vec<String>) -> Result<Option<Heads>, UsersError> {
        let Some(opened) = self.profiles.open(user)? else {
            notes.push(format!("'{user}' has no profile yet: the shipped heads are used"));
            return Ok(None);
        };
        notes.extend(opened.damaged.iter().map(ToString::to_string));
        self.heads_in(&opened, user, notes)
    }

    fn heads_in(
        &self,
        opened: &Opened,
        user: &UserName,
        notes: &mut Vec<String>,
    ) -> Result<Option<Heads>, UsersError> {
        let state = match opened.for_bundle(&self.encoder) {
            Ok(state) => state,
            Err(error) => {
                notes.push(format!("{error}: the shipped heads are used"));
                return Ok(None);
            }
        };
        let refused = |reason: String| UsersError::Heads { user: user.clone(), reason };
        let folded: Result<Heads, HeadsError> = match &state.correction {
            Some(correction) => correction.fold(&state.heads),
            None => Ok(state.heads.clone()),
        };
        let heads = folded.map_err(|error| refused(error.to_string()))?;
        if heads.dim() != self.shipped.dim() {
            let (found, expected) = (heads.dim(), self.shipped.dim());
            return Err(refused(format!(
                "its heads read embeddings of {found} values, but the encoder gives {expected}"
            )));
        }
        Ok(Some(heads))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use semblance_calib::profile::State;
    use semblance_calib::{HeadKind, LinearHead};

    fn heads(dim: usize, bias: f32) -> Heads {
        let labels = vec!["neutral".to_owned(), "happy".to_owned()];
        let head = LinearHead::new("expression", labels, dim, vec![0.0; 2 * dim], vec![0.0, bias]).unwrap();
        Heads::new(dim, [(HeadKind::Expression, head)]).unwrap()
    }

    #[test]
    fn heads_are_swapped_whole_and_a_failure_changes_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let profiles = Profiles::new(dir.path());
        let users = Users::new(heads(3, 0.0), "sha", profiles.clone());
        assert_eq!(users.known().unwrap(), []);
        let state = |heads: Heads, bundle: &str| State {
            bundle: bundle.to_owned(),
            heads,
            correction: None,
            labelled: None,
            saved_unix_secs: 1,
            reason: String::new(),
            report: String::new(),
        };
        let [ada, bob, eve, nobody]: [UserName; 4] =
            ["ada", "bob", "eve", "nobody"].map(|n| n.parse().unwrap());
        profiles.save(&ada, &state(heads(3, 1.0), "sha"), None).unwrap();
        profiles.save(&bob, &state(heads(3, 2.0), "another"), None).unwrap();
        profiles.save(&eve, &state(heads(4, 3.0), "sha"), None).unwrap();
        assert_eq!(users.known().unwrap(), [ada.clone(), bob.clone(), eve.clone()]);

        let before = users.in_force().now();
        assert_eq!(users.choose(Some(&ada)).unwrap(), [""; 0]);
        let own = users.in_force().now();
        assert_eq!((own.user.as_deref(), own.adapted, &own.heads), (Some("ada"), true, &heads(3, 1.0)));
        assert_eq!((before.user.as_deref(), before.adapted), (None, false), "who holds it keeps it");

        let error = users.choose(Some(&eve)).unwrap_err().to_string();
        assert!(error.contains("'eve'") && error.contains('4') && error.contains('3'), "{error}");
        assert_eq!(users.in_force().now(), own);
        for (user, word) in [(&bob, "another"), (&nobody, "no profile yet")] {
            let notes = users.choose(Some(user)).unwrap();
            assert!(notes.len() == 1 && notes[0].contains(word), "{notes:?}");
            let now = users.in_force().now();
            assert_eq!(
                (now.user.as_deref(), now.adapted, &now.heads),
                (Some(user.as_str()), false, &heads(3, 0.0))
            );
        }
        users.choose(None).unwrap();
        assert_eq!(users.in_force().now(), before);
    }
}
