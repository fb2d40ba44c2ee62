"""Templates for senders of messages that many use. Settings of an `sms` channel.

Aliyun and Tencent Cloud are built from their public documentation, not verified on the products.
Both let only texts through that match a template which they have approved: ask for one with the
variables that these fill.
"""

import json
from collections.abc import Sequence
from typing import Any

from ruchu.control.alarms.channels.templates import literal

ALIYUN_HOST = "https://dysmsapi.aliyuncs.com"
TENCENT_HOST = "https://sms.tencentcloudapi.com"


def aliyun(
    phones: Sequence[str], sign_name: str, template_code: str, host: str = ALIYUN_HOST
) -> dict[str, Any]:
    """Return settings for Aliyun's SendSms. Secrets: `key_id`, `key`.

    The approved template has the variables `${severity}`, `${name}` and `${alarm}`: at most 35
    characters each, which is Aliyun's limit.
    """
    parameters = '{"severity":"${severity:35:json}","name":"${subject:35:json}",'
    return {
        "phones": list(phones),
        "method": "POST",
        "url": f"{host}/",
        "query": {
            "Action": "SendSms",
            "Version": "2017-05-25",
            "RegionId": "cn-hangzhou",
            "PhoneNumbers": "${phone}",
            "SignName": literal(sign_name),
            "TemplateCode": literal(template_code),
            "TemplateParam": parameters + '"alarm":"${headline:35:json}"}',
            "OutId": "${id}",
        },
        "signer": "aliyun-rpc",
        "success": [{"path": "Code", "equals": "OK"}],
    }


def tencent(
    phones: Sequence[str],
    app: str,
    sign_name: str,
    template: str,
    host: str = TENCENT_HOST,
    region: str = "ap-guangzhou",
) -> dict[str, Any]:
    """Return settings for Tencent Cloud's SendSms. Secrets: `key_id`, `key`.

    The approved template has three variables: severity, name, alarm.
    """
    body = {
        "PhoneNumberSet": ["${phone}"],
        "SmsSdkAppId": literal(app),
        "SignName": literal(sign_name),
        "TemplateId": literal(template),
        "TemplateParamSet": ["${severity}", "${subject:30}", "${headline:30}"],
        "SessionContext": "${id}",
    }
    return {
        "phones": list(phones),
        "method": "POST",
        "url": f"{host}/",
        "headers": {
            "Content-Type": "application/json; charset=utf-8",
            "X-TC-Action": "SendSms",
            "X-TC-Version": "2021-01-11",
            "X-TC-Region": literal(region),
        },
        "body": json.dumps(body, ensure_ascii=False),
        "signer": "tencent-tc3",
        "service": "sms",
        "success": [{"path": "Response.SendStatusSet.0.Code", "equals": "Ok"}],
    }


def generic(phones: Sequence[str], url: str) -> dict[str, Any]:
    """Return settings for a gateway that takes JSON and a bearer token. Secret: `token`."""
    body = {"to": "${phone}", "text": "${title:70}", "id": "${id}"}
    return {
        "phones": list(phones),
        "method": "POST",
        "url": literal(url),
        "headers": {"Authorization": "Bearer ${secrets.token}", "Idempotency-Key": "${id}"},
        "body": json.dumps(body),
        "signer": "none",
        "success": [],
    }
