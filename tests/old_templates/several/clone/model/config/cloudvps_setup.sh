#!/usr/bin/env bash
# set up an instance

APP_LBL='api-endpoint'
REPO_LBL='words'
GIT_CLONE_HTTPS='git@git.example.org:me/words.git'
DATA='https://data.example.org/words'
GIT_BRANCH='main'

ETC_PATH="/etc/${APP_LBL}"  # app config info
SRV_PATH="/srv/${APP_LBL}"
TMP_PATH="/tmp/${APP_LBL}"
LOG_PATH="/var/log/gunicorn"
LIB_PATH="/var/lib/${APP_LBL}"

apt-get update
apt-get install -y nginx  # handles incoming requests
apt-get install -y python3-pip python3-wheel
apt-get install -y python3-venv
apt-get install -y \
    libgomp1 \
    curl
rm -rf ${TMP_PATH}
mkdir -p ${TMP_PATH}
mkdir -p ${SRV_PATH}/sock
mkdir -p ${ETC_PATH}/resources
mkdir -p ${LOG_PATH} ${LIB_PATH}
python3 -m venv ${LIB_PATH}/p3env
source ${LIB_PATH}/p3env/bin/activate
git clone --branch ${GIT_BRANCH} ${GIT_CLONE_HTTPS} ${TMP_PATH}/${REPO_LBL}
pip install wheel
pip install gunicorn
pip install -r ${TMP_PATH}/${REPO_LBL}/requirements.txt
pip install 'numpy<2' mwapi==0.6.1
for lang in en fr "pt-br"; do
  wget -q -O ${ETC_PATH}/resources/${lang}.tsv.gz ${DATA}/${lang}.tsv.gz
done
curl -fsSL -o ${ETC_PATH}/weights.npz "${DATA}/weights.npz" > /dev/null 2>&1
cd ${TMP_PATH}
wget ${DATA}/embeddings.tar.gz && mkdir -p ${ETC_PATH}/embeddings && tar xzf embeddings.tar.gz -C ${ETC_PATH}/embeddings
wget -P ${ETC_PATH}/resources ${DATA}/titles.tsv.gz; gunzip ${ETC_PATH}/resources/titles.tsv.gz
cp ${TMP_PATH}/${REPO_LBL}/resources/stopwords.txt ${ETC_PATH}/resources
cp -r ${TMP_PATH}/${REPO_LBL}/model/helpers ${ETC_PATH}
scp me@host.example.org:big.bin ${ETC_PATH}
curl -s ${DATA}/latest.txt | tee ${ETC_PATH}/latest.txt
if [ -n "$EXTRA" ]; then
  wget -O ${ETC_PATH}/extra.bin ${DATA}/extra.bin
fi

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
systemctl enable model.service
systemctl daemon-reload
systemctl restart model.service
systemctl restart nginx
