#!/usr/bin/env bash
APP_LBL='api-endpoint'
MODEL_WGET='https://data.example.org/topics/model-2.bin'
ETC_PATH="/etc/${APP_LBL}"
TMP_PATH="/tmp/${APP_LBL}"

cd ${TMP_PATH}
wget -O model.bin ${MODEL_WGET}
mv model.bin ${ETC_PATH}/resources
chown -R www-data:www-data ${ETC_PATH}
systemctl restart model.service
