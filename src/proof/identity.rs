//! The identity that istiod takes questions from: a short-lived token of one ServiceAccount of the root
//! namespace. In memory only, and never in a log.

use std::time::Duration;

use http::HeaderValue;
use k8s_openapi::api::{
    authentication::v1::{TokenRequest, TokenRequestSpec},
    core::v1::ServiceAccount,
};
use kube::{Api, api::PostParams};
use tokio::{sync::Mutex, time::Instant};

use crate::runtime::writer::Writer;

/// What istiod takes tokens for (istio `TOKEN_AUDIENCES`; measured M15).
const AUDIENCE: &str = "istio-ca";

/// The shortest that the API server gives out (kubernetes `pkg/registry/core/serviceaccount/storage`).
const LIFETIME: i64 = 600;

/// How long the API server may take.
const DEADLINE: Duration = Duration::from_secs(5);

/// Gets tokens, and keeps one as long as it is good.
pub struct Identity {
    writer: Writer,
    namespace: String,
    account: String,
    token: Mutex<Option<Token>>,
}

struct Token {
    bearer: HeaderValue,
    until: Instant,
}

impl Identity {
    /// Of a ServiceAccount.
    pub fn new(writer: Writer, namespace: &str, account: &str) -> Self {
        Self { writer, namespace: namespace.to_owned(), account: account.to_owned(), token: Mutex::default() }
    }

    /// What goes into `Authorization`. A new one in the last fifth of a token's life.
    pub async fn bearer(&self) -> Result<HeaderValue, String> {
        let mut token = self.token.lock().await;
        if let Some(token) = token.as_ref().filter(|token| Instant::now() < token.until) {
            return Ok(token.bearer.clone());
        }
        let begun = Instant::now();
        let answer = self.ask().await?;
        let granted = u64::try_from(answer.spec.expiration_seconds.unwrap_or(LIFETIME)).unwrap_or_default();
        let text = answer.status.map(|status| format!("Bearer {}", status.token)).unwrap_or_default();
        let mut bearer = HeaderValue::try_from(text).map_err(|_| self.fault("its answer holds no token"))?;
        bearer.set_sensitive(true);
        *token = Some(Token { bearer: bearer.clone(), until: begun + Duration::from_secs(granted).mul_f64(0.8) });
        Ok(bearer)
    }

    /// istiod does not take it: the next question gets another.
    pub async fn forget(&self) {
        *self.token.lock().await = None;
    }

    async fn ask(&self) -> Result<TokenRequest, String> {
        let api: Api<ServiceAccount> = Api::namespaced(self.writer.client().clone(), &self.namespace);
        let spec = TokenRequestSpec {
            audiences: vec![AUDIENCE.to_owned()],
            expiration_seconds: Some(LIFETIME),
            ..TokenRequestSpec::default()
        };
        let request = TokenRequest { spec, ..TokenRequest::default() };
        let how = PostParams::default();
        let allowed = self.writer.allow(DEADLINE).map_err(|held| self.fault(&held.to_string()))?;
        match allowed.make(api.create_token_request(&self.account, &how, &request)).await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(kube::Error::Api(status))) => Err(self.fault(&status.message)),
            Ok(Err(error)) => Err(self.fault(&error.to_string())),
            Err(_) => Err(self.fault(&format!("no answer within {} s", allowed.left.as_secs()))),
        }
    }

    fn fault(&self, why: &str) -> String {
        format!("no token for ServiceAccount {}/{} (docs/in-effect.md): {why}", self.namespace, self.account)
    }
}
