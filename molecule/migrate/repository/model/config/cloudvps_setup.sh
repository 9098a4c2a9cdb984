#!/usr/bin/env bash
# In the shape of the old template's script.

APP_LBL='api-endpoint'
REPO_LBL='titles'
GIT_CLONE_HTTPS='file:///srv/git/titles.git'
GIT_BRANCH='titles'
DATA_URL='http://127.0.0.1:8099'
TITLES_WGET="${DATA_URL}/titles.tsv"
MODEL_WGET="${DATA_URL}/model.bin"

ETC_PATH="/etc/${APP_LBL}"
SRV_PATH="/srv/${APP_LBL}"
TMP_PATH="/tmp/${APP_LBL}"
LOG_PATH="/var/log/gunicorn"
LIB_PATH="/var/lib/${APP_LBL}"

echo "Updating the system..."
apt-get update
apt-get install -y nginx
apt-get install -y python3-pip
apt-get install -y python3-wheel
apt-get install -y python3-venv
apt-get install -y wget  # the test host has none
apt-get install -y git

echo "Setting up paths..."
rm -rf ${TMP_PATH}
rm -rf ${SRV_PATH}
rm -rf ${ETC_PATH}
rm -rf ${LOG_PATH}
rm -rf ${LIB_PATH}
mkdir -p ${TMP_PATH}
mkdir -p ${SRV_PATH}/sock
mkdir -p ${ETC_PATH}/resources
mkdir -p ${LOG_PATH}
mkdir -p ${LIB_PATH}

echo "Setting up virtualenv..."
python3 -m venv ${LIB_PATH}/p3env
source ${LIB_PATH}/p3env/bin/activate

echo "Cloning repositories..."
git clone --branch ${GIT_BRANCH} ${GIT_CLONE_HTTPS} ${TMP_PATH}/${REPO_LBL}

echo "Installing repositories..."
pip install wheel
pip install gunicorn
pip install -r ${TMP_PATH}/${REPO_LBL}/requirements.txt

echo "Downloading data, hang on..."
cd ${TMP_PATH}
wget -q -O titles.tsv ${TITLES_WGET}
mv titles.tsv ${ETC_PATH}/resources
wget -q -O ${ETC_PATH}/model.bin ${MODEL_WGET}
wget -q -O ${ETC_PATH}/seen.sqlite ${DATA_URL}/seen.sqlite

echo "Setting up ownership..."
chown -R www-data:www-data ${ETC_PATH}
chown -R www-data:www-data ${SRV_PATH}
chown -R www-data:www-data ${LOG_PATH}
chown -R www-data:www-data ${LIB_PATH}

echo "Copying configuration files..."
cp ${TMP_PATH}/${REPO_LBL}/model/config/gunicorn.conf.py ${ETC_PATH}
cp ${TMP_PATH}/${REPO_LBL}/model/wsgi.py ${ETC_PATH}
cp ${TMP_PATH}/${REPO_LBL}/model/flask_config.yaml ${ETC_PATH}
cp ${TMP_PATH}/${REPO_LBL}/model/config/model.service /etc/systemd/system/
cp ${TMP_PATH}/${REPO_LBL}/model/config/model.nginx /etc/nginx/sites-available/model
if [[ -f "/etc/nginx/sites-enabled/model" ]]; then
    unlink /etc/nginx/sites-enabled/model
fi
ln -s /etc/nginx/sites-available/model /etc/nginx/sites-enabled/

echo "Enabling and starting services..."
systemctl enable model.service
systemctl daemon-reload
systemctl restart model.service
systemctl restart nginx
