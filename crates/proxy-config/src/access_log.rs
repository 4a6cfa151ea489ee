//! Access logs.

use std::sync::Arc;

use envoy_api::envoy::config::accesslog::v3 as proto;
use envoy_api::envoy::config::core::v3::{self as core, substitution_format_string::Format};
use envoy_api::envoy::extensions::access_loggers::file::v3::{FileAccessLog, file_access_log};
use envoy_api::envoy::extensions::access_loggers::stream::v3::{StdoutAccessLog, stdout_access_log};
use envoy_api::google::protobuf::{Struct, value};
use telemetry::{AccessLog, AccessLogConfig, LogFilter, LogFormat, ResponseFlags};

use crate::common::{data_source, kind, unpack};
use crate::context::{Refusal, Result, Under};
use crate::protocol::refuse_set;

/// Envoy's default text format.
const DEFAULT: &str = "[%START_TIME%] \"%REQ(:METHOD)% %REQ(X-ENVOY-ORIGINAL-PATH?:PATH)% %PROTOCOL%\" %RESPONSE_CODE% \
    %RESPONSE_FLAGS% %BYTES_RECEIVED% %BYTES_SENT% %DURATION% %RESP(X-ENVOY-UPSTREAM-SERVICE-TIME)% \
    \"%REQ(X-FORWARDED-FOR)%\" \"%REQ(USER-AGENT)%\" \"%REQ(X-REQUEST-ID)%\" \"%REQ(:AUTHORITY)%\" \"%UPSTREAM_HOST%\"\n";

pub(crate) fn compile(logs: &[proto::AccessLog]) -> Result<Vec<Arc<AccessLog>>> {
    logs.iter().enumerate().map(|(i, log)| one(log).under(format!("access_log[{i}]"))).collect()
}

fn one(log: &proto::AccessLog) -> Result<Arc<AccessLog>> {
    let Some(proto::access_log::ConfigType::TypedConfig(any)) = &log.config_type else {
        return Err(Refusal::new("typed_config", "is missing"));
    };
    let (path, format) = match kind(any) {
        "envoy.extensions.access_loggers.file.v3.FileAccessLog" => {
            let file: FileAccessLog = unpack(any)?;
            (file.path, file_format(file.access_log_format.as_ref())?)
        }
        "envoy.extensions.access_loggers.stream.v3.StdoutAccessLog" => {
            let stdout: StdoutAccessLog = unpack(any)?;
            let format = match &stdout.access_log_format {
                Some(stdout_access_log::AccessLogFormat::LogFormat(f)) => substitution(f)?,
                None => LogFormat::Text(DEFAULT.to_owned()),
            };
            ("/dev/stdout".to_owned(), format)
        }
        other => return Err(Refusal::new("typed_config", format!("access logger {other} is not supported"))),
    };
    let config = AccessLogConfig { path, format, filter: filter(log.filter.as_ref())? };
    AccessLog::new(&config).map(Arc::new).map_err(|e| Refusal::new("log_format", e))
}

fn filter(proto: Option<&proto::AccessLogFilter>) -> Result<LogFilter> {
    use proto::access_log_filter::FilterSpecifier as F;
    match proto.and_then(|f| f.filter_specifier.as_ref()) {
        None => Ok(LogFilter::All),
        Some(F::ResponseFlagFilter(flags)) => {
            let mut all = ResponseFlags::NONE;
            for name in &flags.flags {
                let flag = ResponseFlags::from_short(name);
                all.insert(
                    flag.ok_or_else(|| Refusal::new("filter.response_flag_filter", format!("unknown flag {name}")))?,
                );
            }
            Ok(LogFilter::Flags(all))
        }
        Some(_) => Err(Refusal::unsupported("filter")),
    }
}

fn file_format(proto: Option<&file_access_log::AccessLogFormat>) -> Result<LogFormat> {
    use file_access_log::AccessLogFormat as F;
    #[allow(deprecated)] // Old forms of the same thing.
    match proto {
        None => Ok(LogFormat::Text(DEFAULT.to_owned())),
        Some(F::LogFormat(format)) => substitution(format),
        Some(F::Format(text)) => Ok(LogFormat::Text(text.clone())),
        Some(F::JsonFormat(fields) | F::TypedJsonFormat(fields)) => json(fields),
    }
}

fn substitution(proto: &core::SubstitutionFormatString) -> Result<LogFormat> {
    refuse_set!(proto; omit_empty_values)?;
    #[allow(deprecated)]
    match &proto.format {
        Some(Format::TextFormat(text)) => Ok(LogFormat::Text(text.clone())),
        Some(Format::TextFormatSource(source)) => Ok(LogFormat::Text(data_source(Some(source))?)),
        Some(Format::JsonFormat(fields)) => json(fields),
        None => Err(Refusal::new("log_format", "is empty")),
    }
}

fn json(fields: &Struct) -> Result<LogFormat> {
    let mut all: Vec<(String, String)> = fields
        .fields
        .iter()
        .map(|(key, v)| match &v.kind {
            Some(value::Kind::StringValue(format)) => Ok((key.clone(), format.clone())),
            _ => Err(Refusal::new(&format!("json_format.{key}"), "only strings are supported as values")),
        })
        .collect::<Result<_>>()?;
    all.sort();
    Ok(LogFormat::Json(all))
}
