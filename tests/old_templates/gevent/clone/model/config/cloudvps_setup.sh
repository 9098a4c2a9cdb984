#!/usr/bin/env bash
# set up an instance

APP_LBL='api-endpoint'
REPO_LBL='queue'
GIT_CLONE_HTTPS='https://git.example.org/me/queue.git'
GIT_BRANCH='queue'

ETC_PATH="/etc/${APP_LBL}"  # app config info
SRV_PATH="/srv/${APP_LBL}"
TMP_PATH="/tmp/${APP_LBL}"
LOG_PATH="/var/log/gunicorn"
LIB_PATH="/var/lib/${APP_LBL}"

apt-get update
apt-get install -y nginx  # handles incoming requests
apt-get install -y python3-pip python3-wheel
apt-get install -y python3-venv
rm -rf ${TMP_PATH}
mkdir -p ${TMP_PATH}
mkdir -p ${SRV_PATH}/sock
mkdir -p ${ETC_PATH}/resources
mkdir -p ${LOG_PATH} ${LIB_PATH}
python3 -m venv ${LIB_PATH}/p3env
source ${LIB_PATH}/p3env/bin/activate
git clone --branch ${GIT_BRANCH} ${GIT_CLONE_HTTPS} ${TMP_PATH}/${REPO_LBL}
pip install wheel
pip install gunicorn[gevent]
pip install -r ${TMP_PATH}/${REPO_LBL}/requirements.txt

echo "Setting up ownership..."
chown -R www-data:www-data ${ETC_PATH} ${SRV_PATH} ${LOG_PATH} ${LIB_PATH}
cp ${TMP_PATH}/${REPO_LBL}/model/config/gunicorn.conf.py ${ETC_PATH}
cp ${TMP_PATH}/${REPO_LBL}/model/wsgi.py ${ETC_PATH}
cp ${TMP_PATH}/${REPO_LBL}/model/flask_config.yaml ${ETC_PATH}
cp ${TMP_PATH}/${REPO_LBL}/model/config/model.service /etc/systemd/system/
cp ${TMP_PATH}/${REPO_LBL}/model/config/model.nginx /etc/nginx/sites-available/model
if [[ -f "/etc/nginx/sites-enabled/model" ]]; then
    unlink /etc/nginx/sites-enabled/model
fi
ln -s /etc/nginx/sites-available/model /etc/nginx/sites-enabled/
echo "Pre-loading cache"
python ${ETC_PATH}/wsgi.py --k 3
systemctl restart helper.service
systemctl enable model.service
systemctl daemon-reload
systemctl restart model.service
systemctl restart nginx
