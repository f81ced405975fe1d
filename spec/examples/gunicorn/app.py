"""The application: its answer is in the generation, so code and configuration are one unit."""


def application(environ, start_response):
    body = b"one\n"
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", str(len(body)))])
    return [body]
