//! `AccountService`: accounts, sessions, tokens of systems.

use std::{collections::BTreeSet, sync::Arc};

use lianxi_proto::admin::v1 as pb;
use tonic::{Request, Response, Status};
use zeroize::Zeroizing;

use super::{
    access::{bearer, caller, person},
    status::to_status,
};
use crate::{
    domain::{
        account::AccountName,
        role::{Grant, Role},
    },
    services::accounts::{
        Accounts, ApiToken, FirstAdministrator, Held, Listed, NewToken, Prepared,
    },
};

/// Serves the people of the host.
#[derive(Clone, Debug)]
pub struct AccountHandler {
    accounts: Arc<Accounts>,
}

impl AccountHandler {
    /// A handler over the host's people.
    pub fn new(accounts: Arc<Accounts>) -> Self {
        Self { accounts }
    }
}

fn name(text: &str) -> Result<AccountName, Status> {
    text.parse()
        .map_err(|error: crate::domain::account::Error| Status::invalid_argument(error.to_string()))
}

fn grant(grant: Option<pb::RoleGrant>) -> Result<Grant, Status> {
    let invalid = |text: String| Status::invalid_argument(text);
    let grant = grant.ok_or_else(|| invalid("the role is missing".to_owned()))?;
    let role: Role = grant.role.parse().map_err(|error| invalid(format!("{error}")))?;
    let unit = match grant.unit.as_str() {
        "" => None,
        code => Some(super::status::unit(code)?),
    };
    Grant::new(role, unit).map_err(|error| invalid(error.to_string()))
}

fn grants(list: Vec<pb::RoleGrant>) -> Result<BTreeSet<Grant>, Status> {
    list.into_iter().map(|one| grant(Some(one))).collect()
}

fn grant_to_proto(grant: &Grant) -> pb::RoleGrant {
    pb::RoleGrant {
        role: grant.role.as_str().to_owned(),
        unit: grant.unit.as_ref().map(ToString::to_string).unwrap_or_default(),
    }
}

fn held_to_proto(held: &Held) -> pb::HeldRole {
    pb::HeldRole {
        grant: Some(grant_to_proto(&held.grant)),
        on_behalf_of: held.on_behalf_of.as_ref().map(ToString::to_string).unwrap_or_default(),
    }
}

fn factor(prepared: &Prepared) -> pb::Factor {
    pb::Factor { name: prepared.name.to_string(), uri: prepared.uri.to_string() }
}

fn first(administrator: Option<pb::FirstAdministrator>) -> Result<FirstAdministrator, Status> {
    let missing = || Status::invalid_argument("one of the three administrators is missing");
    let administrator = administrator.ok_or_else(missing)?;
    Ok(FirstAdministrator {
        name: name(&administrator.name)?,
        title: administrator.title,
        password: Zeroizing::new(administrator.password),
    })
}

fn account(listed: &Listed) -> pb::Account {
    let account = &listed.account;
    let state = match (&account.closed, account.locked || listed.locked_until_unix_ms > 0) {
        (Some(_), _) => "closed",
        (None, true) => "locked",
        (None, false) if listed.active => "active",
        (None, false) => "new",
    };
    let deputies = account.deputies.iter().map(|deputy| pb::Deputy {
        name: deputy.to.to_string(),
        from_unix_ms: deputy.from_unix_ms,
        until_unix_ms: deputy.until_unix_ms,
    });
    let successor = account.closed.as_ref().map(|closed| closed.successor.to_string());
    pb::Account {
        name: account.name.to_string(),
        title: account.title.clone(),
        roles: account.grants.iter().map(grant_to_proto).collect(),
        state: state.to_owned(),
        created_unix_ms: account.created_unix_ms,
        last_login_unix_ms: account.last_login_unix_ms,
        deputies: deputies.collect(),
        tokens: count(listed.tokens),
        successor: successor.unwrap_or_default(),
    }
}

fn token(token: ApiToken) -> pb::ApiToken {
    pb::ApiToken {
        id: token.id,
        account: token.account.to_string(),
        title: token.title,
        roles: token.grants.iter().map(grant_to_proto).collect(),
        methods: token.methods,
        created_unix_ms: token.created_unix_ms,
        ends_unix_ms: token.ends_unix_ms,
    }
}

fn count(count: usize) -> u32 {
    u32::try_from(count).unwrap_or(u32::MAX)
}

type Answer<T> = Result<Response<T>, Status>;

#[tonic::async_trait]
impl pb::account_service_server::AccountService for AccountHandler {
    async fn begin_setup(
        &self,
        request: Request<pb::BeginSetupRequest>,
    ) -> Answer<pb::BeginSetupResponse> {
        let uid = caller(&request)?.uid;
        let request = request.into_inner();
        let people = [first(request.system)?, first(request.security)?, first(request.audit)?];
        let prepared = self.accounts.begin_setup(people, uid).await.map_err(to_status)?;
        let factors = prepared.iter().map(factor).collect();
        Ok(Response::new(pb::BeginSetupResponse { factors }))
    }

    async fn finish_setup(
        &self,
        request: Request<pb::FinishSetupRequest>,
    ) -> Answer<pb::FinishSetupResponse> {
        let uid = caller(&request)?.uid;
        let request = request.into_inner();
        let codes = [&request.system_code, &request.security_code, &request.audit_code];
        let codes = codes.map(|code| code.trim());
        self.accounts.finish_setup(codes, uid).await.map_err(to_status)?;
        Ok(Response::new(pb::FinishSetupResponse {}))
    }

    async fn login(&self, request: Request<pb::LoginRequest>) -> Answer<pb::LoginResponse> {
        let uid = caller(&request)?.uid;
        let request = request.into_inner();
        let password = Zeroizing::new(request.password);
        let logged_in = self.accounts.login(&request.name, password, request.code.trim(), uid);
        let logged_in = logged_in.await.map_err(to_status)?;
        let (token, ends_unix_ms) = (logged_in.token.to_string(), logged_in.ends_unix_ms);
        Ok(Response::new(pb::LoginResponse { token, ends_unix_ms }))
    }

    async fn logout(&self, request: Request<pb::LogoutRequest>) -> Answer<pb::LogoutResponse> {
        let person = person(&request)?;
        let token = bearer(request.metadata().as_ref()).unwrap_or_default();
        self.accounts.logout(&person.name, token).await.map_err(to_status)?;
        Ok(Response::new(pb::LogoutResponse {}))
    }

    async fn whoami(&self, request: Request<pb::WhoamiRequest>) -> Answer<pb::WhoamiResponse> {
        let caller = caller(&request)?;
        let identity = caller.identity.as_ref();
        let roles = identity.map(|identity| identity.held.iter().map(held_to_proto).collect());
        Ok(Response::new(pb::WhoamiResponse {
            name: identity.map(|identity| identity.name.to_string()).unwrap_or_default(),
            uid: caller.uid,
            roles: roles.unwrap_or_default(),
            token: identity.is_some_and(|identity| !identity.is_person()),
            accounts_exist: self.accounts.exist().await,
        }))
    }

    async fn change_password(
        &self,
        request: Request<pb::ChangePasswordRequest>,
    ) -> Answer<pb::ChangePasswordResponse> {
        let uid = caller(&request)?.uid;
        let request = request.into_inner();
        let (old, new) =
            (Zeroizing::new(request.old_password), Zeroizing::new(request.new_password));
        let code = request.code.trim();
        let changed = self.accounts.change_password(&request.name, old, code, new, uid);
        changed.await.map_err(to_status)?;
        Ok(Response::new(pb::ChangePasswordResponse {}))
    }

    async fn begin_activation(
        &self,
        request: Request<pb::BeginActivationRequest>,
    ) -> Answer<pb::BeginActivationResponse> {
        let uid = caller(&request)?.uid;
        let request = request.into_inner();
        let password = Zeroizing::new(request.password);
        let code = request.activation_code.trim();
        let begun = self.accounts.begin_activation(&request.name, code, password, uid);
        let prepared = begun.await.map_err(to_status)?;
        Ok(Response::new(pb::BeginActivationResponse { factor: Some(factor(&prepared)) }))
    }

    async fn finish_activation(
        &self,
        request: Request<pb::FinishActivationRequest>,
    ) -> Answer<pb::FinishActivationResponse> {
        let uid = caller(&request)?.uid;
        let request = request.into_inner();
        let (code, one_time) = (request.activation_code.trim(), request.code.trim());
        let finished = self.accounts.finish_activation(&request.name, code, one_time, uid);
        finished.await.map_err(to_status)?;
        Ok(Response::new(pb::FinishActivationResponse {}))
    }

    async fn list(
        &self,
        request: Request<pb::ListAccountsRequest>,
    ) -> Answer<pb::ListAccountsResponse> {
        let dormant_ms = Some(request.into_inner().dormant_for_ms).filter(|ms| *ms > 0);
        let accounts = self.accounts.list(dormant_ms).await.iter().map(account).collect();
        Ok(Response::new(pb::ListAccountsResponse { accounts }))
    }

    async fn add(&self, request: Request<pb::AddAccountRequest>) -> Answer<pb::ActivationResponse> {
        let person = person(&request)?;
        let request = request.into_inner();
        let (name, grants) = (name(&request.name)?, grants(request.roles)?);
        let added = self.accounts.add(&person.name, name, request.title, grants);
        let code = added.await.map_err(to_status)?.to_string();
        let name = request.name;
        Ok(Response::new(pb::ActivationResponse { name, activation_code: code }))
    }

    async fn grant(&self, request: Request<pb::GrantRequest>) -> Answer<pb::GrantResponse> {
        let person = person(&request)?;
        let request = request.into_inner();
        let (name, grant) = (name(&request.name)?, grant(request.grant)?);
        self.accounts.grant(&person.name, &name, grant).await.map_err(to_status)?;
        Ok(Response::new(pb::GrantResponse {}))
    }

    async fn withdraw(
        &self,
        request: Request<pb::WithdrawRequest>,
    ) -> Answer<pb::WithdrawResponse> {
        let person = person(&request)?;
        let request = request.into_inner();
        let (name, grant) = (name(&request.name)?, grant(request.grant)?);
        self.accounts.withdraw(&person.name, &name, grant).await.map_err(to_status)?;
        Ok(Response::new(pb::WithdrawResponse {}))
    }

    async fn lock(&self, request: Request<pb::LockRequest>) -> Answer<pb::LockResponse> {
        let person = person(&request)?;
        let request = request.into_inner();
        let name = name(&request.name)?;
        self.accounts.lock(&person.name, &name, !request.unlock).await.map_err(to_status)?;
        Ok(Response::new(pb::LockResponse {}))
    }

    async fn reset_factor(
        &self,
        request: Request<pb::ResetFactorRequest>,
    ) -> Answer<pb::ActivationResponse> {
        let person = person(&request)?;
        let name = name(&request.into_inner().name)?;
        let code = self.accounts.reset_factor(&person.name, &name).await.map_err(to_status)?;
        let (name, activation_code) = (name.to_string(), code.to_string());
        Ok(Response::new(pb::ActivationResponse { name, activation_code }))
    }

    async fn close(
        &self,
        request: Request<pb::CloseAccountRequest>,
    ) -> Answer<pb::CloseAccountResponse> {
        let person = person(&request)?;
        let request = request.into_inner();
        let (name, successor) = (name(&request.name)?, name(&request.successor)?);
        let closed = self.accounts.close(&person.name, &name, &successor, request.dry_run);
        let handed_over = closed.await.map_err(to_status)?;
        Ok(Response::new(pb::CloseAccountResponse {
            approvals: count(handed_over.approvals),
            tokens_ended: count(handed_over.tokens),
            deputies: count(handed_over.deputies),
            sessions_ended: count(handed_over.sessions),
        }))
    }

    async fn delegate(
        &self,
        request: Request<pb::DelegateRequest>,
    ) -> Answer<pb::DelegateResponse> {
        let person = person(&request)?;
        let request = request.into_inner();
        let (from, until) = (request.from_unix_ms, request.until_unix_ms);
        let delegated = self.accounts.delegate(&person.name, name(&request.to)?, from, until);
        delegated.await.map_err(to_status)?;
        Ok(Response::new(pb::DelegateResponse {}))
    }

    async fn recall(&self, request: Request<pb::RecallRequest>) -> Answer<pb::RecallResponse> {
        let person = person(&request)?;
        let ended = self.accounts.recall(&person.name).await.map_err(to_status)?;
        Ok(Response::new(pb::RecallResponse { ended: count(ended) }))
    }

    async fn add_token(
        &self,
        request: Request<pb::AddTokenRequest>,
    ) -> Answer<pb::AddTokenResponse> {
        let person = person(&request)?;
        let request = request.into_inner();
        let new = NewToken {
            title: request.title,
            grants: grants(request.roles)?,
            methods: request.methods,
            valid_for_ms: request.valid_for_ms,
        };
        let added = self.accounts.add_token(&person.name, new).await.map_err(to_status)?;
        let (token, id, ends_unix_ms) = added;
        let token = token.to_string();
        Ok(Response::new(pb::AddTokenResponse { token, id, ends_unix_ms }))
    }

    async fn list_tokens(
        &self,
        request: Request<pb::ListTokensRequest>,
    ) -> Answer<pb::ListTokensResponse> {
        let person = person(&request)?;
        let all = person.holds(Role::SecurityAdministrator);
        let tokens = self.accounts.list_tokens(&person.name, all).await;
        let tokens = tokens.into_iter().map(token).collect();
        Ok(Response::new(pb::ListTokensResponse { tokens }))
    }

    async fn end_token(
        &self,
        request: Request<pb::EndTokenRequest>,
    ) -> Answer<pb::EndTokenResponse> {
        let person = person(&request)?;
        let any = person.holds(Role::SecurityAdministrator);
        let id = request.into_inner().id;
        self.accounts.end_token(&person.name, any, id).await.map_err(to_status)?;
        Ok(Response::new(pb::EndTokenResponse {}))
    }
}
