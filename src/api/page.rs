//! The error page of Python's HTTP server: patronictl and scripts look into it.

/// The page with its reason phrase. `method` is named by the page of 501.
pub fn error(status: u16, method: &str) -> (String, String) {
    let (phrase, explanation) = meaning(status);
    let message =
        if status == 501 { format!("Unsupported method ('{method}')") } else { phrase.to_owned() };
    let body = format!(
        r#"<!DOCTYPE HTML>
<html lang="en">
    <head>
        <meta charset="utf-8">
        <title>Error response</title>
    </head>
    <body>
        <h1>Error response</h1>
        <p>Error code: {status}</p>
        <p>Message: {message}.</p>
        <p>Error code explanation: {status} - {explanation}.</p>
    </body>
</html>
"#
    );
    (message, body)
}

fn meaning(status: u16) -> (&'static str, &'static str) {
    match status {
        400 => ("Bad Request", "Bad request syntax or unsupported method"),
        408 => ("Request Timeout", "Request timed out; try again later"),
        409 => ("Conflict", "Request conflict"),
        411 => ("Length Required", "Client must specify Content-Length"),
        413 => ("Request Entity Too Large", "Entity is too large"),
        501 => ("Not Implemented", "Server does not support this operation"),
        502 => ("Bad Gateway", "Invalid responses from another server/proxy"),
        503 => ("Service Unavailable", "The server cannot process the request due to a high load"),
        _ => ("Internal Server Error", "Server got itself in trouble"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_have_the_length_that_was_captured() {
        for (status, method, length) in
            [(400, "POST", 343), (501, "POST", 357), (501, "DELETE", 359), (502, "GET", 346)]
        {
            assert_eq!(error(status, method).1.len(), length, "{status}");
        }
        assert_eq!(error(501, "PUT").0, "Unsupported method ('PUT')");
    }
}
