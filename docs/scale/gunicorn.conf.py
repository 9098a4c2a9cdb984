"""gunicorn's settings in the image: those of the role that mean something there."""

bind = "0.0.0.0:8080"
workers = 2
threads = 16
worker_class = "gthread"
preload_app = True
timeout = 30
# Less than the pod's terminationGracePeriodSeconds: a request that has begun is answered.
graceful_timeout = 25
worker_tmp_dir = "/dev/shm"  # noqa: S108 - memory, not a folder to be tricked in
control_socket_disable = True
# To standard output, without address and user agent. What the ingress in front writes is not decided here.
accesslog = "-"
access_log_format = '%(t)s "%(m)s %(U)s %(H)s" %(s)s %(B)s %(L)s'
