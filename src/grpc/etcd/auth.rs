//! Authentication. Users and roles are none of etcd's here: a node without tokens answers as an etcd whose authentication is off, and one with
//! tokens takes a token as the password of any user.

use hyper::{HeaderMap, header};
use tonic::{Code, Request, Response, Status};

use super::{Api, error};
use crate::{
    error::Error,
    grpc::{
        proto::etcdserverpb::{self as pb, auth_server::Auth},
        request::Caller,
    },
};

fn not_enabled() -> Status {
    error::etcd(Code::FailedPrecondition, "authentication is not enabled")
}

/// What a client is told that wants to manage users.
fn other() -> Status {
    error::unimplemented("who may do what is said by the node's tokens, see `DynaRust token`")
}

/// Methods about users and roles, which are all answered the same.
macro_rules! without_users {
    ($($method:ident)*) => {
        #[tonic::async_trait]
        impl Auth for Api {
            async fn auth_enable(
                &self,
                _: Request<pb::AuthEnableRequest>,
            ) -> Result<Response<pb::AuthEnableResponse>, Status> {
                Err(other())
            }

            async fn auth_disable(
                &self,
                _: Request<pb::AuthDisableRequest>,
            ) -> Result<Response<pb::AuthDisableResponse>, Status> {
                Err(other())
            }

            async fn auth_status(
                &self,
                request: Request<pb::AuthStatusRequest>,
            ) -> Result<Response<pb::AuthStatusResponse>, Status> {
                self.auth_status_of(&request)
            }

            async fn authenticate(
                &self,
                request: Request<pb::AuthenticateRequest>,
            ) -> Result<Response<pb::AuthenticateResponse>, Status> {
                self.authenticate_by_token(&request)
            }

            $(async fn $method(
                &self,
                _: Request<pb::AuthOtherRequest>,
            ) -> Result<Response<pb::AuthOtherResponse>, Status> {
                Err(other())
            })*
        }
    };
}

without_users! {
    user_add user_get user_list user_delete user_change_password user_grant_role user_revoke_role
    role_add role_get role_list role_delete role_grant_permission role_revoke_permission
}

impl Api {
    fn auth_status_of(
        &self,
        request: &Request<pb::AuthStatusRequest>,
    ) -> Result<Response<pb::AuthStatusResponse>, Status> {
        let caller = Caller::of(request).map_err(|error| error::of(&error))?;
        let header = self.newest_header().map_err(|error| error::of(&error))?;
        let enabled = caller.connection.options.access.is_on();
        Ok(Response::new(pb::AuthStatusResponse { header, enabled, auth_revision: 0 }))
    }

    fn authenticate_by_token(
        &self,
        request: &Request<pb::AuthenticateRequest>,
    ) -> Result<Response<pb::AuthenticateResponse>, Status> {
        let caller = Caller::of(request).map_err(|error| error::of(&error))?;
        let access = &caller.connection.options.access;
        if !access.is_on() {
            return Err(not_enabled());
        }
        let token = &request.get_ref().password;
        let failed =
            || error::etcd(Code::InvalidArgument, "authentication failed, invalid user ID or password");
        let mut headers = HeaderMap::new();
        headers.insert(header::AUTHORIZATION, format!("Bearer {token}").try_into().map_err(|_| failed())?);
        match access.authenticate(&headers, None) {
            Ok(_) => {
                let header = self.newest_header().map_err(|error| error::of(&error))?;
                Ok(Response::new(pb::AuthenticateResponse { header, token: token.clone() }))
            }
            Err(Error::Unauthenticated { .. }) => Err(failed()),
            Err(other) => Err(error::of(&other)),
        }
    }
}
