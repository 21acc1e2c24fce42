//! Waiting for a service that one can't do without at the start.

use std::time::Duration;

use tokio::time::sleep;
use tonic::Code;
use tonic_health::pb::{
    HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient,
};

use super::Channel;
use crate::call::Call;

/// How long one answer is waited for, and the pauses between two questions.
const ASK_LIMIT: Duration = Duration::from_secs(1);
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const MAX_PAUSE: Duration = Duration::from_secs(1);

impl Channel {
    /// Waits until some replica answers that it serves this service, for example
    /// `drivers.user.v1.UserService`. That it does not yet, and that it does, is logged
    /// once each. Cancel-safe.
    pub async fn until_serving(&self, service: &str) {
        let mut health = HealthClient::new(self.clone());
        let mut pause = FIRST_PAUSE;
        let mut away = false;
        loop {
            let question = HealthCheckRequest {
                service: service.to_owned(),
            };
            let asked = health.check(Call::within(ASK_LIMIT).request(question));
            let why = match asked.await {
                Ok(answer) if answer.get_ref().status() == ServingStatus::Serving => break,
                Ok(_) => "it is not ready",
                Err(status) if status.code() == Code::NotFound => {
                    "another service answers where it should be"
                }
                Err(_) => "it can't be reached",
            };
            if away {
                tracing::debug!(service, why, "a service is still away");
            } else {
                tracing::warn!(
                    service,
                    why,
                    "a service is away; it is asked until it is there"
                );
            }
            away = true;
            sleep(pause.mul_f64(rand::random_range(0.5..1.0))).await;
            pause = (pause * 2).min(MAX_PAUSE);
        }
        if away {
            tracing::info!(service, "the service is there");
        }
    }
}
