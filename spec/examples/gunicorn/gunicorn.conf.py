# gunicorn takes its socket from LISTEN_FDS, which pointsman sets; `bind` would be ignored.
workers = 2
# requests that are still open after this time are cut; below grace_shutdown_time of pointsman.yaml
graceful_timeout = 25
# a fork per worker writes its heartbeat here; the default directory may be a disk
worker_tmp_dir = "/dev/shm"
# the access log would be the worker's output: `pointsman logs`
accesslog = None
