"""Signatures against the examples that vendors published.

Where each example was read: Aliyun, "Signature method" of the RPC interface (DescribeRegions) and
"HTTP interface and signature" of the message service (SendSms, document 56189); Tencent Cloud,
"Signature v3" (DescribeInstances). DingTalk and Feishu publish a rule and program text, but no
worked example: these two are computed here a second time by that rule, which shows that the code
follows it, not that the product agrees.
"""

import base64
import datetime
import hashlib
import hmac

from ruchu.control.alarms.channels import signing
from ruchu.control.alarms.channels.http import Request

REGIONS = {
    "Timestamp": "2016-02-23T12:46:24Z",
    "Format": "XML",
    "AccessKeyId": "testid",
    "Action": "DescribeRegions",
    "SignatureMethod": "HMAC-SHA1",
    "SignatureNonce": "3ee8c1b8-83d3-44af-a94f-4e0ad82fd6cf",
    "Version": "2014-05-26",
    "SignatureVersion": "1.0",
}
MESSAGE = {
    "AccessKeyId": "testId",
    "Action": "SendSms",
    "Format": "XML",
    "OutId": "123",
    "PhoneNumbers": "15300000001",
    "RegionId": "cn-hangzhou",
    "SignName": "阿里云短信测试专用",
    "SignatureMethod": "HMAC-SHA1",
    "SignatureNonce": "45e25e9b-0a6f-4070-8c85-2956eda1b466",
    "SignatureVersion": "1.0",
    "TemplateCode": "SMS_71390007",
    "TemplateParam": '{"customer":"test"}',
    "Timestamp": "2017-07-12T02:42:19Z",
    "Version": "2017-05-25",
}


def test_aliyun_describe_regions_as_published():
    assert signing.aliyun_rpc("GET", REGIONS, "testsecret") == "OLeaidS1JvxuMvnyHOwuJ+uX5qY="


def test_aliyun_send_sms_with_a_chinese_name_as_published():
    assert signing.aliyun_rpc("GET", MESSAGE, "testSecret") == "zJDF+Lrzhj/ThnlvIToysFRq6t4="


def test_aliyun_adds_what_everybody_has_to_send():
    moment = datetime.datetime(2017, 7, 12, 2, 42, 19, tzinfo=datetime.UTC)
    action = {"Action": "SendSms", "Version": "2017-05-25"}
    signed = signing.aliyun_signed("POST", action, ("testId", "testSecret"), (moment, "n1"))
    assert signed["Timestamp"] == "2017-07-12T02:42:19Z"
    rest = {name: value for name, value in signed.items() if name != "Signature"}
    assert signed["Signature"] == signing.aliyun_rpc("POST", rest, "testSecret")
    assert set(signed) == {
        *action,
        "AccessKeyId",
        "Format",
        "Signature",
        "SignatureMethod",
        "SignatureNonce",
        "SignatureVersion",
        "Timestamp",
    }


def test_aliyun_escapes_what_other_libraries_do_not():
    assert signing.aliyun_query({"b": "a b*~/+", "a": "é"}) == "a=%C3%A9&b=a%20b%2A~%2F%2B"


def test_tencent_describe_instances_as_published():
    body = (
        rb'{"Limit": 1, "Filters": [{"Values": ["\u672a\u547d\u540d"], "Name": "instance-name"}]}'
    )
    headers = {"Content-Type": "application/json; charset=utf-8", "Host": "cvm.tencentcloudapi.com"}
    request = Request("POST", "https://cvm.tencentcloudapi.com/", headers, body)
    keys = ("AKIDz8krbsJ5yKBZQpn74WFkmLPx3EXAMPLE", "Gu5t9xGARNpq86cd98joQYCN3EXAMPLE")
    moment = datetime.datetime.fromtimestamp(1551113065, datetime.UTC)
    assert signing.tencent_tc3(request, "cvm", keys, moment) == (
        "TC3-HMAC-SHA256 "
        "Credential=AKIDz8krbsJ5yKBZQpn74WFkmLPx3EXAMPLE/2019-02-25/cvm/tc3_request, "
        "SignedHeaders=content-type;host, "
        "Signature=72e494ea809ad7a8c8f7a4507b9bddcbaa8e581f516e8da2f66e2c5a96525168"
    )


def test_dingtalk_by_its_rule():
    text = b"1577808000000\nthis is secret"
    digest = hmac.digest(b"this is secret", text, "sha256")
    assert signing.dingtalk("this is secret", 1577808000000) == base64.b64encode(digest).decode()


def test_feishu_by_its_rule():
    digest = hmac.digest("1599360473\n密钥".encode(), b"", "sha256")
    assert signing.feishu("密钥", 1599360473) == base64.b64encode(digest).decode()


def test_our_own_is_what_a_receiver_would_write():
    body = '{"a": "二"}'.encode()
    expected = hmac.new(b"key", b"1700000000." + body, hashlib.sha256).hexdigest()
    assert signing.hook("key", 1700000000, body) == expected
