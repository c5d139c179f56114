// SPDX-License-Identifier: Apache-2.0
// What is refused, and in which words. Sentences are QEMU 7.2's where QEMU has one.
#include "tests/tools/qmp/test_server.h"

#include <gtest/gtest.h>

namespace
{

class QmpRequest : public testing::Test
{
  protected:
    void SetUp() override
    {
        client_.negotiate();
    }
    void refused(const std::string &request, const std::string &desc)
    {
        Json answer = (client_.send(request + "\n"), client_.object());
        json_t *error = json_object_get(answer.get(), "error");
        EXPECT_STREQ("GenericError", json_string_value(json_object_get(error, "class"))) << request;
        EXPECT_STREQ(desc.c_str(), json_string_value(json_object_get(error, "desc"))) << request;
        EXPECT_EQ(0, server_.calls) << request;
    }
    // `members` are those of echo's arguments beside its uri.
    void bad_argument(const std::string &members, const std::string &desc)
    {
        refused("{\"execute\": \"echo\", \"arguments\": {\"uri\": \"\", " + members + "}}", desc);
    }

    TestServer server_;
    RawClient client_{server_.path()};
};

TEST_F(QmpRequest, ThatIsNoCommand)
{
    refused("[]", "QMP input must be a JSON object");
    refused("1", "QMP input must be a JSON object");
    refused("null", "QMP input must be a JSON object");
    refused("\"x\"", "QMP input must be a JSON object");
    refused("{}", "QMP input lacks member 'execute'");
    refused("{\"id\": 5}", "QMP input lacks member 'execute'");
    refused("{\"execute\": 1}", "QMP input member 'execute' must be a string");
    refused("{\"execute\": \"nothing\", \"foo\": 1}", "QMP input member 'foo' is unexpected");
    refused("{\"exec-oob\": \"nothing\"}", "QMP input member 'exec-oob' is unexpected");
    refused("{\"execute\": \"nothing\", \"arguments\": []}",
            "QMP input member 'arguments' must be an object");
}

TEST_F(QmpRequest, ThatIsNoJson)
{
    for (const char *text : {"hello", "}", "{\"a\":1]", "{ execute: 1}", "{\"execute\": \"nothing\",}",
                             "{\"execute\": \"nothing\", \"execute\": \"echo\"}",
                             "{\"execute\": \"\xc3\x28\"}", "{\"execute\": \"a\\u0000b\"}",
                             "{\"execute\": \"\\ud800\"}", "{\"execute\": \"nothing\", \"id\": 01}",
                             "{\"execute\": \"nothing\", \"id\": 123456789012345678901234567890}"}) {
        std::string answer = client_.ask(text);
        EXPECT_EQ(0U, answer.find("{\"error\": {\"class\": \"GenericError\", \"desc\": \"JSON parse error, "))
            << text << " gives " << answer;
    }
    EXPECT_EQ(0, server_.calls);
    EXPECT_EQ("{\"return\": {}}", client_.ask("{\"execute\": \"nothing\"}"));
}

TEST_F(QmpRequest, WithArgumentsThatTheCommandDoesNotTake)
{
    refused("{\"execute\": \"nothing\", \"arguments\": {\"a\": 1}}", "Parameter 'a' is unexpected");
    refused("{\"execute\": \"query-version\", \"arguments\": {\"a\": 1}}", "Parameter 'a' is unexpected");
    bad_argument("\"foo\": 1", "Parameter 'foo' is unexpected");
}

TEST_F(QmpRequest, WithoutAnArgumentThatItNeeds)
{
    refused("{\"execute\": \"echo\"}", "Parameter 'uri' is missing");
    bad_argument("\"capabilities\": [{\"capability\": \"one\"}]",
                 "Parameter 'capabilities[0].state' is missing");
    bad_argument("\"inner\": {}", "Parameter 'inner.capability' is missing");
}

TEST_F(QmpRequest, WithAnArgumentOfAWrongType)
{
    refused("{\"execute\": \"echo\", \"arguments\": {\"uri\": null}}",
            "Invalid parameter type for 'uri', expected: string");
    bad_argument("\"detach\": 1", "Invalid parameter type for 'detach', expected: boolean");
    bad_argument("\"max-bandwidth\": \"x\"", "Parameter 'max-bandwidth' expects uint64");
    bad_argument("\"max-bandwidth\": -1", "Parameter 'max-bandwidth' expects uint64");
    bad_argument("\"max-bandwidth\": 1.5", "Parameter 'max-bandwidth' expects uint64");
    bad_argument("\"channels\": 129", "Parameter 'channels' expects a value between 0 and 128");
    bad_argument("\"kind\": 1", "Invalid parameter type for 'kind', expected: string");
    bad_argument("\"kind\": \"three\"", "Parameter 'kind' does not accept value 'three'");
    bad_argument("\"list\": {}", "Invalid parameter type for 'list', expected: array");
    bad_argument("\"inner\": []", "Invalid parameter type for 'inner', expected: object");
    bad_argument("\"capabilities\": [1]", "Invalid parameter type for 'capabilities[0]', expected: object");
    bad_argument("\"capabilities\": [{\"capability\": \"three\", \"state\": true}]",
                 "Parameter 'capability' does not accept value 'three'");
    bad_argument("\"capabilities\": [{\"capability\": \"one\", \"state\": true}, "
                 "{\"capability\": \"two\", \"state\": 1}]",
                 "Invalid parameter type for 'capabilities[1].state', expected: boolean");
}

TEST_F(QmpRequest, WithEverythingThatItMayHave)
{
    std::string arguments =
        "{\"uri\": \"tcp:h:1\", \"detach\": true, \"max-bandwidth\": 0, \"channels\": 128, \"kind\": "
        "\"two\", "
        "\"capabilities\": [{\"capability\": \"one\", \"state\": false}], \"list\": [1, \"a\", null], "
        "\"inner\": {\"capability\": \"two\", \"state\": true}, \"any\": null}";
    EXPECT_EQ("{\"return\": " + arguments + "}",
              client_.ask("{\"execute\": \"echo\", \"arguments\": " + arguments + "}"));
}

// QEMU reads integers up to 2^64 - 1; those that jansson does not read count as its largest one.
TEST_F(QmpRequest, WithTheLargestIntegers)
{
    auto echoed = [&](const std::string &number) {
        Json answer = (client_.send(R"({"execute": "echo", "arguments": {"uri": "\"9223372036854775808", )"
                                    "\"max-bandwidth\": " +
                                    number + "}, \"id\": [1, 2.5]}\n"),
                       client_.object());
        json_t *result = json_object_get(answer.get(), "return");
        EXPECT_STREQ("\"9223372036854775808", json_string_value(json_object_get(result, "uri")));
        EXPECT_EQ(2.5, json_real_value(json_array_get(json_object_get(answer.get(), "id"), 1)));
        return json_integer_value(json_object_get(result, "max-bandwidth"));
    };
    EXPECT_EQ(INT64_MAX, echoed("9223372036854775807"));
    EXPECT_EQ(INT64_MAX, echoed("9223372036854775808"));
    EXPECT_EQ(INT64_MAX, echoed("18446744073709551615"));
    EXPECT_EQ(1000000000000000000, echoed("1000000000000000000"));
    for (const char *number : {"18446744073709551616", "-9223372036854775809", "99999999999999999999",
                               "9223372036854775808e5000"}) {
        std::string answer = client_.ask("{\"execute\": \"nothing\", \"id\": " + std::string(number) + "}");
        EXPECT_NE(std::string::npos, answer.find("JSON parse error")) << answer;
    }
}

TEST_F(QmpRequest, AnswersAreAscii)
{
    EXPECT_EQ("{\"return\": {}, \"id\": \"\\u00E9\\uD83D\\uDE00\"}",
              client_.ask("{\"execute\": \"nothing\", \"id\": \"\xc3\xa9\xf0\x9f\x98\x80\"}"));
}

} // namespace
