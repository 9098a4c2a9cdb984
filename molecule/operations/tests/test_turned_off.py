"""The last tests of the scenario: nothing is counted any more after them, and the log has less in it."""

from conftest import LOG, PAGE, asked


def test_the_metrics_can_be_turned_off_and_the_log_can_have_less_in_it(api, set_to, on_one_host):
    set_to("", log_query_string=False, log_referrer=False)
    assert "Failed to connect" in asked(api.container)
    assert (
        api.host.run("find /etc/systemd /run/api-endpoint /usr/local/lib -name '*metrics*'").stdout
        == ""
    )
    assert "metrics" not in api.host.check_output("nginx -T 2>/dev/null")
    assert api.get("/environ?text=secret", headers={"Referer": PAGE}).status == 200
    line = api.host.check_output(f"tail -n 1 {LOG}")
    assert '"GET /environ HTTP/1.1" 200' in line
    assert "secret" not in line
    assert PAGE not in line
