import multiprocessing

chdir = '/etc/sources/'
wsgi_app = 'wsgi:app'
bind = 'unix:/srv/sources/sock/model.sock'
umask = 7
workers = (multiprocessing.cpu_count() * 2) + 1
timeout = 30
preload_app = True
accesslog = '/var/log/gunicorn/access.log'
errorlog = '/var/log/gunicorn/error.log'
loglevel = 'info'
access_log_format = '%(t)s "%(r)s" %(s)s %(b)s "%(f)s" "%(M)s"'
