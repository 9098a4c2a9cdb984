
chdir = '/etc/api-endpoint/'
wsgi_app = 'wsgi:app'
bind = 'unix:/srv/api-endpoint/sock/model.sock'
umask = 7
workers = 1
timeout = 60
worker_class = "gevent"
preload_app = False
raw_env = ["OMP_NUM_THREADS=1"]
accesslog = '/var/log/gunicorn/access.log'
errorlog = '/var/log/gunicorn/error.log'
loglevel = 'info'
access_log_format = '%(t)s "%(r)s" %(s)s %(b)s "%(f)s" "%(M)s"'
