//! `/v1/example.jpg`: a drawn face that shows an expression, for people who are asked to show it.

use axum::extract::Query;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use image::codecs::jpeg::JpegEncoder;
use semblance_face::labels::Expression;
use semblance_synth::{FaceState, Identity, Renderer, prototype};
use serde::Deserialize;

use super::api;

const SIDE_PX: u32 = 320;
const QUALITY: u8 = 88;

#[derive(Debug, Deserialize)]
pub(super) struct Asked {
    #[serde(default)]
    expression: String,
}

pub(super) async fn example(Query(asked): Query<Asked>) -> Response {
    let Some(expression) = Expression::from_name(&asked.expression) else {
        let names = Expression::ALL.map(Expression::name).join(", ");
        let sentence = format!("'{}' is no expression: there are {names}.", asked.expression);
        return api::error(StatusCode::BAD_REQUEST, &sentence);
    };
    match tokio::task::spawn_blocking(move || draw(expression)).await {
        Ok(Ok(jpeg)) => ([(header::CONTENT_TYPE, "image/jpeg")], jpeg).into_response(),
        Ok(Err(error)) => {
            api::error(StatusCode::INTERNAL_SERVER_ERROR, &format!("The face cannot be drawn: {error}."))
        }
        Err(_) => api::error(StatusCode::INTERNAL_SERVER_ERROR, "The server failed to answer."),
    }
}

fn draw(expression: Expression) -> Result<Vec<u8>, Box<dyn std::error::Error + Send + Sync>> {
    let mut renderer = Renderer::studio(Identity::average(), SIDE_PX, SIDE_PX, SIDE_PX as f32 * 0.66)?;
    let state = FaceState { au: prototype(expression), ..FaceState::default() };
    let drawn = renderer.render(&state, renderer.centered())?;
    let mut jpeg = Vec::new();
    JpegEncoder::new_with_quality(&mut jpeg, QUALITY).encode(
        drawn.frame.rgb(),
        SIDE_PX,
        SIDE_PX,
        image::ExtendedColorType::Rgb8,
    )?;
    Ok(jpeg)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use semblance_face::Frame;

    #[test]
    fn every_expression_is_another_picture() {
        let drawn: Vec<Vec<u8>> = Expression::ALL.iter().map(|&e| draw(e).unwrap()).collect();
        for (i, jpeg) in drawn.iter().enumerate() {
            let frame = Frame::decode(jpeg).unwrap();
            assert_eq!((frame.width(), frame.height()), (SIDE_PX, SIDE_PX));
            assert!(!drawn[..i].contains(jpeg));
        }
    }
}
