use std::time::{Duration, UNIX_EPOCH};

use http::{HeaderName, HeaderValue};

use super::*;

fn lines(format: LogFormat, filter: LogFilter, record: &LogRecord<'_>) -> String {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("access.log");
    let config = AccessLogConfig { path: path.display().to_string(), format, filter };
    AccessLog::new(&config).unwrap().log(record);
    let end = AccessLogConfig {
        format: LogFormat::Text("END\n".to_owned()),
        filter: LogFilter::All,
        path: config.path.clone(),
    };
    AccessLog::new(&end).unwrap().log(record);
    loop {
        let text = std::fs::read_to_string(&path).unwrap();
        if let Some(body) = text.strip_suffix("END\n") {
            return body.to_owned();
        }
        std::thread::yield_now();
    }
}

fn record(headers: &[(HeaderName, HeaderValue)]) -> LogRecord<'_> {
    let mut record = LogRecord::new(UNIX_EPOCH + Duration::from_millis(1500));
    record.method = Some("GET");
    record.path = Some("/pay\"\n");
    record.protocol = Some("HTTP/1.1");
    record.response_code = 503;
    record.flags = ResponseFlags::UF.with(ResponseFlags::URX);
    record.duration = Duration::from_millis(12);
    record.request_headers = crate::record::RequestHeaders::Kept(headers);
    record.upstream_host = Some("10.0.0.1:8080".parse().unwrap());
    record
}

#[test]
fn the_default_text_format_prints_dashes_for_what_is_unknown() {
    let headers = [(HeaderName::from_static("x-request-id"), HeaderValue::from_static("abc"))];
    let format = "[%START_TIME%] \"%REQ(:METHOD)% %REQ(X-ENVOY-ORIGINAL-PATH?:PATH)% %PROTOCOL%\" %RESPONSE_CODE% \
                  %RESPONSE_FLAGS% %RESP(X-ENVOY-UPSTREAM-SERVICE-TIME)% \"%REQ(X-REQUEST-ID):2%\" %UPSTREAM_HOST% \
                  %ROUTE_NAME% 100%%\n";
    let text = lines(LogFormat::Text(format.to_owned()), LogFilter::All, &record(&headers));
    assert_eq!(text, "[1970-01-01T00:00:01.500Z] \"GET /pay\"\n HTTP/1.1\" 503 UF,URX - \"ab\" 10.0.0.1:8080 - 100%\n");
}

#[test]
fn json_keeps_numbers_escapes_strings_and_says_null() {
    let headers = [(HeaderName::from_static("user-agent"), HeaderValue::from_bytes(b"a\xffb").unwrap())];
    let fields = [
        ("path", "%REQ(:PATH)%"),
        ("code", "%RESPONSE_CODE%"),
        ("flags", "%RESPONSE_FLAGS%"),
        ("agent", "%REQ(USER-AGENT)%"),
        ("route", "%ROUTE_NAME%"),
        ("both", "%PROTOCOL%/%ROUTE_NAME%"),
        ("service_time", "%RESP(X-ENVOY-UPSTREAM-SERVICE-TIME)%"),
    ];
    let fields = fields.map(|(k, v)| (k.to_owned(), v.to_owned())).to_vec();
    let text = lines(LogFormat::Json(fields), LogFilter::All, &record(&headers));
    let json: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!(
        json,
        serde_json::json!({"path": "/pay\"\n", "code": 503, "flags": "UF,URX", "agent": "a\u{fffd}b", "route": null,
            "both": "HTTP/1.1/-", "service_time": null})
    );
}

#[test]
fn what_is_escaped_is_the_same_text_wherever_it_stands() {
    for special in ["\"", "\\", "\n", "\r", "\t", "\u{1}", "\u{7f}", "\u{e4}", "\u{fffd}", "\u{1f980}"] {
        for at in 0..40 {
            let text = format!("{}{special}{}", "x".repeat(at), "y".repeat(20));
            let mut out = vec![b'"'];
            escape(text.as_bytes(), &mut out);
            out.push(b'"');
            assert_eq!(serde_json::from_slice::<String>(&out).unwrap(), text, "{special:?} at {at}");
        }
    }
    let mut out = Vec::new();
    escape(b"", &mut out);
    escape(b"sixteen bytes ok", &mut out);
    assert_eq!(out, b"sixteen bytes ok");
}

#[test]
fn addresses_are_written_as_they_are_displayed() {
    for address in ["1.2.3.4:0", "255.255.255.255:65535", "0.10.0.1:80", "[::1]:443", "[2001:db8::7]:0"] {
        let given: std::net::SocketAddr = address.parse().unwrap();
        let written = |port| {
            let record = LogRecord { upstream_local: Some(given), ..record(&[]) };
            let format = if port { "%UPSTREAM_LOCAL_ADDRESS%" } else { "%UPSTREAM_LOCAL_ADDRESS_WITHOUT_PORT%" };
            lines(LogFormat::Text(format.to_owned()), LogFilter::All, &record)
        };
        assert_eq!((written(true), written(false)), (address.to_owned(), given.ip().to_string()));
    }
}

#[test]
fn a_flag_filter_keeps_others_out() {
    let format = LogFormat::Text("%RESPONSE_CODE%\n".to_owned());
    assert_eq!(lines(format.clone(), LogFilter::Flags(ResponseFlags::NR), &record(&[])), "");
    assert_eq!(lines(format, LogFilter::Flags(ResponseFlags::UF), &record(&[])), "503\n");
}

#[test]
fn bad_formats_are_refused_by_name() {
    assert_eq!(compile("%NOPE(1)%"), Err(FormatError::Unsupported("NOPE(1)".to_owned())));
    assert_eq!(compile("a %REQ(X)"), Err(FormatError::Unclosed(2)));
    assert!(matches!(compile("%REQ(X):y%"), Err(FormatError::Argument(_))));
    assert!(matches!(compile("%REQ(a b)%"), Err(FormatError::Argument(_))));
}
