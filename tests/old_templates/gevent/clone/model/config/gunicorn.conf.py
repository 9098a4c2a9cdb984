import multiprocessing

chdir = '/etc/api-endpoint/'
wsgi_app = 'wsgi:app'
bind = 'unix:/srv/api-endpoint/sock/model.sock'
umask = 7
workers = (multiprocessing.cpu_count() * 2) + 1
timeout = 30
preload_app = True


def post_fork(server, worker):
    pass
accesslog = '/var/log/gunicorn/access.log'
errorlog = '/var/log/gunicorn/error.log'
loglevel = 'info'
access_log_format = '%(t)s "%(r)s" %(s)s %(b)s "%(f)s" "%(M)s"'
