// Chat templates against what transformers makes of them (tests/fixtures/make_chat_fixtures.py).
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <ctime>

#include "core/base/random.h"
#include "data/template/template.h"
#include "tests/data/chat_test_util.h"

namespace thimble {
namespace {

using jinja::Template;

TEST(ChatTemplate, LanguageIsThatOfJinja) {
  int compared = 0, refused = 0;
  const Json items = chat_fixture("language.json");
  for (const Json& item : items) {
    const auto source = item["template"].get<std::string>();
    SCOPED_TRACE(source);
    const Json messages = Json::parse(
        R"([{"role": "user", "content": "hi"}, {"role": "assistant", "content": "yo"}])");
    const std::optional<std::string> text = render_text(source, "t", messages, Json(), true);
    ++(item["text"].is_null() ? refused : compared);
    if (item["text"].is_null()) {
      EXPECT_FALSE(text.has_value()) << *text << " against " << item["error"];
    } else {
      ASSERT_TRUE(text.has_value());
      EXPECT_EQ(*text, item["text"].get<std::string>());
    }
  }
  EXPECT_GT(compared, 100);
  EXPECT_GT(refused, 30);
}

TEST(ChatTemplate, OwnTemplatesRenderAsInTransformers) {
  const Json rendered = chat_fixture("rendered.json");
  int texts = 0;
  for (const auto& [file, of_template] : rendered.items()) {
    const std::string source = read_bytes("tests/fixtures/chat/templates/" + file);
    for (const Conversations::Row& row : Conversations().rows) {
      SCOPED_TRACE(file + ": " + row.name);
      const Json& expected = of_template.at(row.name);
      for (const int prompted : {0, 1}) {
        const auto text = render_text(source, file, row.messages, row.tools, prompted == 1);
        expect_text(text, expected[static_cast<std::size_t>(prompted)]);
        texts += text.has_value() ? 1 : 0;
      }
      if (expected.size() < 3) continue;
      const Template parsed = Template::parse(source, file);
      EXPECT_TRUE(parsed.marks_generation());
      Json ranges = Json::array();
      for (const jinja::TextRange r :
           parsed.render(request_for(row.messages, row.tools, false)).generation)
        ranges.push_back({r.begin, r.end});
      EXPECT_EQ(ranges, expected[2]);
    }
  }
  EXPECT_GT(texts, 70);
}

TEST(ChatTemplate, BoundsAreKept) {
  const auto error = [](const std::string& source) {
    jinja::RenderRequest request;
    request.limits = {.steps = 20'000, .made_bytes = 1 << 20, .output_bytes = 1000};
    try {
      const Template parsed = Template::parse(source, "t.jinja");
      return "rendered " + std::to_string(parsed.render(request).text.size());
    } catch (const UserError& e) {
      return std::string(e.what());
    }
  };
  EXPECT_EQ(error("\n{% for a in range(1000) %}{% for b in range(1000) %}{% endfor %}{% endfor %}"),
            "t.jinja:2: chat template: the template takes too many steps");
  EXPECT_EQ(error("{{ 'x' * 100000000 }}"),
            "t.jinja:1: chat template: the template makes too much text");
  EXPECT_EQ(error("{% set ns = namespace(x='ab') %}{% for i in range(60) %}{% set ns.x = ns.x + "
                  "ns.x %}{% endfor %}"),
            "t.jinja:1: chat template: the template makes too much text");
  EXPECT_EQ(error("{% for a in range(300) %}abcd{% endfor %}"),
            "t.jinja:1: chat template: the rendered text is longer than 1000 bytes");
  EXPECT_EQ(error("{% macro f() %}{{ f() }}{% endmacro %}\n{{ f() }}"),
            "t.jinja:1: chat template: the template goes too deep");
  EXPECT_EQ(error("{{ " + std::string(5000, '(') + "1" + std::string(5000, ')') + " }}"),
            "t.jinja:1: chat template: the expression is nested too deeply");
  std::string chain = "{{ 1", dots = "{{ x";
  for (int i = 0; i < 20'000; ++i) {
    chain += " + 1";
    dots += ".x";
  }
  EXPECT_EQ(error(chain + " }}"), "t.jinja:1: chat template: the expression is nested too deeply");
  EXPECT_EQ(error(dots + " }}"), "t.jinja:1: chat template: the expression is nested too deeply");
  std::string blocks;
  for (int i = 0; i < 1000; ++i) blocks += "{% if true %}";
  EXPECT_EQ(error(blocks), "t.jinja:1: chat template: blocks are nested too deeply");
  EXPECT_EQ(error("{% set a = namespace() %}{% set b = namespace(a=a) %}{% set a.b = b %}ok"),
            "rendered 2");
  EXPECT_EQ(error("{{ -9223372036854775807 - 2 }}"),
            "t.jinja:1: chat template: a number does not fit in 64 bits");
  EXPECT_EQ(error("a\n{% include 'x' %}"),
            "t.jinja:2: chat template: {% include %} is not supported; supported are if, for, set, "
            "macro, with, filter, generation, "
            "break, continue and raw");
  EXPECT_EQ(error("\n\n{{ x | frobnicate }}"),
            "t.jinja:3: chat template: there is no filter 'frobnicate'");
  EXPECT_EQ(error("{{\n raise_exception('roles\x1b must alternate') }}"),
            "t.jinja:2: the chat template refuses it: roles\\x1b must alternate");
}

/// What a few steps build is not what a few steps go through.
TEST(ChatTemplate, BoundsHoldForWhatOneStepDoes) {
  const auto error = [](const std::string& source) {
    jinja::RenderRequest request;
    request.limits.steps = 300'000;
    request.limits.made_bytes = std::int64_t{1} << 26;
    try {
      return "rendered " + Template::parse(source, "t").render(request).text;
    } catch (const UserError& e) {
      return std::string(e.what());
    }
  };
  const std::string steps = "t:1: chat template: the template takes too many steps";
  const std::string text = "t:1: chat template: the template makes too much text";
  const std::string nested = "t:1: chat template: values are nested too deeply";
  const auto grow = [](const std::string& how) {
    return "{% set n = namespace(a=1, b=1) %}{% for i in range(90000) %}" + how + "{% endfor %}";
  };
  EXPECT_EQ(error(grow("{% set n.a = [n.a] %}")), nested);
  EXPECT_EQ(error(grow("{% set n.a = {'x': n.a} %}")), nested);
  EXPECT_EQ(error(grow("{% for j in [n.a] %}{% set n.a = loop %}{% endfor %}")), nested);
  // Two lists of 2^50 elements that are 50 lists.
  const std::string twice =
      "{% set n = namespace(a=1, b=1) %}{% for i in range(50) %}{% set n.a = [n.a, n.a] %}"
      "{% set n.b = [n.b, n.b] %}{% endfor %}";
  for (const char* use : {"n.a == n.b", "n.a in [n.b]", "[n.a, n.b] | sort", "n.a is eq(n.b)",
                          "[n.a, n.b] | unique", "[n.a] | select('eq', n.b)"})
    EXPECT_EQ(error(twice + "{{ " + use + " }}"), steps) << use;
  for (const char* use : {"n.a", "n.a | tojson", "n.a | string", "n.a ~ ''", "[n.a] | join"}) {
    const std::string found = error(twice + "{{ " + use + " }}");
    EXPECT_TRUE(found == steps || found == text) << use << ": " << found;
  }
  const std::string big =
      "{% set t = 'ab' * 4000000 %}{% set u = t ~ '' %}{% set l = range(90000) | list %}";
  for (const char* use : {"'x' in t", "t == u", "t is upper", "t | length", "t.find('x')",
                          "5.5 in l", "l | length", "l.index(89999)"})
    EXPECT_EQ(error(big + grow("{% if " + std::string(use) + " %}{% endif %}")).substr(0, 37),
              steps.substr(0, 37))
        << use;
  EXPECT_EQ(error(big + grow("{% for x in l | reverse %}{% break %}{% endfor %}")), text);
  std::string names = "{% set n = namespace() %}";
  for (int i = 0; i < 500; ++i)
    names += fmt::format("{{% set n.a{0} = 1 %}}{{% set b{0} = 1 %}}", i);
  EXPECT_EQ(error(names + "ok"), "rendered ok");
  for (const char* use : {"{% set n.a499 = 2 %}", "{{ n.c }}", "{{ c }}"})
    EXPECT_EQ(error(names + grow(use)), steps) << use;
  // Sizes whose product no search may take.
  EXPECT_EQ(error("{% set t = 'a' * 9000000 %}{% set u = 'a' * 4000000 + 'b' %}{{ u in t }}"),
            "rendered False");
  EXPECT_EQ(error("{% set t = 'b' * 4000000 %}{{ t.strip('a' * 4000000) | length }}"), steps);
  EXPECT_EQ(error("{{ ('a ' * 300000).split() | length }}"), "rendered 300000");
}

TEST(ChatTemplate, ArgumentsThatAreNotReadAreRefused) {
  const auto error = [](const std::string& source) {
    try {
      return Template::parse(source, "t").render({}).text;
    } catch (const UserError& e) {
      return std::string(e.what());
    }
  };
  EXPECT_EQ(error("{{ 'aba'.find('a', 1) }}"),
            "t:1: chat template: find of text with 2 arguments; at most 1 are supported");
  EXPECT_EQ(error("{{ 'a'.splitlines(true) }}"),
            "t:1: chat template: splitlines of text with 1 arguments; at most 0 are supported");
  EXPECT_EQ(error("{{ 'a b  c '.split(none, 1) }}"), "['a', 'b  c']");
  EXPECT_EQ(error("{{ none[1:] }}"), "t:1: chat template: a part of none");
}

/// Found by comparing random templates with Jinja.
TEST(ChatTemplate, RareCornersAreThoseOfJinja) {
  const auto rendered = [](const std::string& source) {
    return Template::parse(source, "t").render({}).text;
  };
  EXPECT_EQ(rendered("{% for i in [1, 2] %}{% break %}{% else %}e{% endfor %}"), "e");
  EXPECT_EQ(rendered("{% for i in [1, 2] %}{% if i == 2 %}{% break %}{% endif %}{% else %}e"
                     "{% endfor %}"),
            "");
  EXPECT_EQ(rendered("{% filter trim %}{% set q = 1 %}{% endfilter %}[{{ q }}]"), "[]");
  EXPECT_EQ(rendered("{% set p %}{% set q = 1 %}{% endset %}[{{ q }}]"), "[]");
  EXPECT_EQ(rendered("{{ (1, 2) * 0 }}{{ (1,) + (2,) }}{{ (1, 2)[:1] }}{{ [1][:0] }}"),
            "()(1, 2)(1,)[]");
  EXPECT_EQ(rendered("{{ 7 | round(1) }} {{ true | round }} {{ 2.5 | round }}"), "7 1 2.0");
  EXPECT_EQ(rendered("{{ ['\u00a0\u200d\ufeff\U000e0001\u00e9\u4e2d'] }}"),
            "['\\xa0\\u200d\\ufeff\\U000e0001\u00e9\u4e2d']");
}

/// Random bytes, and random pieces of templates: refused or rendered, never anything else.
TEST(ChatTemplate, AnySourceIsReadOrRefused) {
  const CounterRandom random(std::random_device{}(), RandomPurpose::kSplit);
  constexpr std::array<std::string_view, 34> kPieces{
      "{{",      "}}",         "{%",         "%}",       "{%-",      "-%}",     " if ",
      " endif ", " for ",      " in ",       " endfor ", "x",        "'a'",     "1",
      "|",       "trim",       ".",          "[",        "]",        "(",       ")",
      " set ",   "=",          "+",          "{#",       "#}",       "\n",      ":",
      ",",       " macro f()", " endmacro ", " raw ",    " endraw ", "\xc3\xa9"};
  std::uint64_t draw = 0;
  int rendered = 0;
  for (int i = 0; i < 20'000; ++i) {
    std::string source;
    const std::uint64_t count = random.u64(draw++) % 14;
    for (std::uint64_t k = 0; k < count; ++k) {
      const std::uint64_t r = random.u64(draw++);
      source += i % 4 == 0 ? std::string(1, static_cast<char>(r))
                           : std::string(kPieces[r % kPieces.size()]);
    }
    rendered += render_text(source, "t", Json::array(), Json(), false).has_value() ? 1 : 0;
  }
  EXPECT_GT(rendered, 100);
}

}  // namespace
}  // namespace thimble
