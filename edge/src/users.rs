//! Whose face is read, and with which heads. Both can be changed while a run goes on; a frame sees either the ones before or
//! the ones after.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use semblance_calib::adapt::Correction;
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
    /// The heads that were fitted: the user's own, or the shipped ones.
    pub fitted: Heads,
    /// What they expect to be done to embeddings, as the profile has it, labels told or adaptation learned.
    pub correction: Option<Correction>,
    /// Both in one: what is read with.
    pub heads: Heads,
    /// Whether the heads are the user's own, and not the shipped ones.
    pub adapted: bool,
}

impl Reading {
    fn new(
        user: Option<Arc<str>>,
        fitted: Heads,
        correction: Option<Correction>,
        adapted: bool,
    ) -> Result<Self, HeadsError> {
        let heads = match &correction {
            Some(correction) => correction.fold(&fitted)?,
            None => fitted.clone(),
        };
        Ok(Self { user, fitted, correction, heads, adapted })
    }

    /// The shipped heads, as they are.
    fn shipped(user: Option<Arc<str>>, heads: Heads) -> Self {
        Self { user, fitted: heads.clone(), correction: None, heads, adapted: false }
    }
}

/// The reading of now, swapped whole.
#[derive(Debug)]
pub struct InForce(Mutex<Arc<Reading>>);

impl InForce {
    /// The shipped heads, for anybody.
    pub fn new(shipped: Heads) -> Self {
        Self(Mutex::new(Arc::new(Reading::shipped(None, shipped))))
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
            Some(user) => self.own(user, &mut notes)?,
            None => None,
        };
        let name = user.map(|user| user.as_str().into());
        self.in_force.put(match own {
            Some(own) => Reading { user: name, ..own },
            None => Reading::shipped(name, self.shipped.clone()),
        });
        Ok(notes)
    }

    /// Reads with these heads from the next frame on, with the correction as it is, until somebody is chosen again: nothing of it
    /// is kept.
    ///
    /// # Errors
    /// Where the heads overflow with the correction; nothing has changed then.
    pub fn try_heads(&self, fitted: Heads) -> Result<(), HeadsError> {
        let now = self.in_force.now();
        self.in_force.put(Reading::new(now.user.clone(), fitted, now.correction.clone(), true)?);
        Ok(())
    }

    /// Reads with this correction from the next frame on, in place of the one before, until somebody is chosen again. Nothing of
    /// it is kept.
    ///
    /// # Errors
    /// Where the heads that come of it overflow; nothing has changed then.
    pub fn correct(&self, correction: Correction) -> Result<(), HeadsError> {
        let now = self.in_force.now();
        let reading = Reading::new(now.user.clone(), now.fitted.clone(), Some(correction), now.adapted)?;
        self.in_force.put(reading);
        Ok(())
    }

    fn own(&self, user: &UserName, notes: &mut Vec<String>) -> Result<Option<Reading>, UsersError> {
        let Some(opened) = self.profiles.open(user)? else {
            notes.push(format!("'{user}' has no profile yet: the shipped heads are used"));
            return Ok(None);
        };
        notes.extend(opened.damaged.iter().map(ToString::to_string));
        self.reading_of(&opened, user, notes)
    }

    fn reading_of(
        &self,
        opened: &Opened,
        user: &UserName,
        notes: &mut Vec<String>,
    ) -> Result<Option<Reading>, UsersError> {
        let state = match opened.for_bundle(&self.encoder) {
            Ok(state) => state,
            Err(error) => {
                notes.push(format!("{error}: the shipped heads are used"));
                return Ok(None);
            }
        };
        let refused = |reason: String| UsersError::Heads { user: user.clone(), reason };
        if state.heads.dim() != self.shipped.dim() {
            let (found, expected) = (state.heads.dim(), self.shipped.dim());
            return Err(refused(format!(
                "its heads read embeddings of {found} values, but the encoder gives {expected}"
            )));
        }
        let reading = Reading::new(None, state.heads.clone(), state.correction.clone(), true);
        reading.map(Some).map_err(|error| refused(error.to_string()))
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

    #[test]
    fn a_correction_is_folded_into_what_is_read_with() {
        let dir = tempfile::tempdir().unwrap();
        let profiles = Profiles::new(dir.path());
        let users = Users::new(heads(3, 0.0), "sha", profiles.clone());
        let ada: UserName = "ada".parse().unwrap();
        let shift = |by: f32| Correction::shift_by(vec![by; 3]).unwrap();
        let labels = vec!["neutral".to_owned(), "happy".to_owned()];
        let weight = vec![1.0, 0.0, 0.0, 0.0, 1.0, 0.0];
        let head = LinearHead::new("expression", labels, 3, weight, vec![0.0; 2]).unwrap();
        let own = Heads::new(3, [(HeadKind::Expression, head)]).unwrap();
        let state = State {
            bundle: "sha".to_owned(),
            heads: own.clone(),
            correction: Some(shift(0.25)),
            labelled: None,
            saved_unix_secs: 1,
            reason: String::new(),
            report: String::new(),
        };
        profiles.save(&ada, &state, None).unwrap();
        users.choose(Some(&ada)).unwrap();
        // W (x - shift) = W x - W shift.
        let bias = || users.in_force().now().heads.expression().unwrap().bias().to_vec();
        assert_eq!((bias(), &users.in_force().now().fitted), (vec![-0.25, -0.25], &own));
        users.correct(shift(0.5)).unwrap();
        assert_eq!((bias(), &users.in_force().now().fitted), (vec![-0.5, -0.5], &own));
        // Heads that are tried are read with the same correction; this one has no weights that it could touch.
        users.try_heads(heads(3, 2.0)).unwrap();
        let now = users.in_force().now();
        assert_eq!(
            (bias(), now.correction.as_ref(), now.user.as_deref()),
            (vec![0.0, 2.0], Some(&shift(0.5)), Some("ada"))
        );
        users.choose(Some(&ada)).unwrap();
        assert_eq!(bias(), [-0.25, -0.25], "nothing of it was kept");
    }
}
