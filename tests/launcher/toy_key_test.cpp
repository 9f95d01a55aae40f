// A key of a job is a member and its description, and nothing else: a table that exists only here
// goes through everything that a job file goes through.
#include <gtest/gtest.h>

#include "launcher/job/help_job.h"
#include "launcher/job/reader.h"
#include "launcher/job/write_job.h"

namespace thimble::job {

enum class Glaze : std::uint8_t { kMatt, kShiny, kSecret };
template <>
inline constexpr std::array kSpellings<Glaze>{Spelling{Glaze::kShiny, "shiny"},
                                              Spelling{Glaze::kMatt, "matt"}};

struct ToyConfig {
  double heat = 0.5;
  Auto<Glaze> glaze;
};

inline void visit_fields(const FieldVisitor& visitor, ToyConfig& toy) {
  const auto visit = [&](Field field) { visitor(field); };
  visit({.name = "heat",
         .doc = "How warm the toy is",
         .value = &toy.heat,
         .range = kShare,
         .unit = "kilns"});
  visit({.name = "glaze", .doc = "Its surface", .value = choice(toy.glaze), .later = {"cracked"}});
}

namespace {

TableVisit visit_of(ToyConfig& toy) {
  return [&toy](const FieldVisitor& visitor) {
    Field field{.name = "toy", .doc = "A toy", .value = table(toy)};
    visitor(field);
  };
}

std::string errors_of(std::string_view text, ToyConfig& toy) {
  JobDraft draft("toy.toml");
  read_tables(text, {}, visit_of(toy), draft);
  return draft.errors.text();
}

TEST(ToyKey, IsRead) {
  ToyConfig toy;
  EXPECT_EQ(errors_of("[toy]\nheat = 0.75\nglaze = \"matt\"\n", toy), "");
  EXPECT_EQ(toy.heat, 0.75);
  EXPECT_EQ(toy.glaze.value, Glaze::kMatt);
  EXPECT_EQ(errors_of("[toy]\nglaze = \"auto\"\n", toy), "");
  EXPECT_TRUE(toy.glaze.is_auto());
}

TEST(ToyKey, IsRefusedWithWhatIsAllowed) {
  ToyConfig toy;
  EXPECT_EQ(errors_of("[toy]\nheat = 2\n", toy),
            "toy.toml:2:1: error: toy.heat = 2: allowed 0 to 1");
  EXPECT_EQ(errors_of("[toy]\nheat = nan\n", toy),
            "toy.toml:2:1: error: toy.heat = nan: expected a finite number");
  EXPECT_EQ(errors_of("[toy]\nhaet = 0.1\n", toy),
            "toy.toml:2:1: error: unknown key 'haet' in [toy]; did you mean 'heat'?");
  EXPECT_EQ(errors_of("[toy]\nglaze = \"mat\"\n", toy),
            "toy.toml:2:1: error: toy.glaze = \"mat\": unknown choice; allowed \"auto\", "
            "\"shiny\", \"matt\"; did you mean \"matt\"?");
  EXPECT_EQ(errors_of("[toy]\nglaze = \"secret\"\n", toy),
            "toy.toml:2:1: error: toy.glaze = \"secret\": unknown choice; allowed \"auto\", "
            "\"shiny\", \"matt\"");
  EXPECT_EQ(errors_of("[toy]\nglaze = \"cracked\"\n", toy),
            "toy.toml:2:1: error: toy.glaze = \"cracked\" is not in this release; allowed "
            "\"auto\", \"shiny\", \"matt\"");
  EXPECT_EQ(toy.heat, 0.5);
}

TEST(ToyKey, IsWrittenAndReadBack) {
  ToyConfig toy{.heat = 0.25, .glaze = {Glaze::kShiny}};
  const std::string text = tables_text(visit_of(toy));
  EXPECT_EQ(text, "\n[toy]\nheat = 0.25\nglaze = \"shiny\"\n");
  ToyConfig back;
  EXPECT_EQ(errors_of(text, back), "");
  EXPECT_EQ(back.heat, 0.25);
  EXPECT_EQ(back.glaze, toy.glaze);
}

TEST(ToyKey, IsExplained) {
  ToyConfig toy;
  const TableVisit keys = [&](const FieldVisitor& visitor) { visit_fields(visitor, toy); };
  EXPECT_EQ(keys_help(keys),
            "  heat = 0.5\n      How warm the toy is.\n      Takes: number 0 to 1, in kilns\n"
            "  glaze = \"auto\"\n      Its surface.\n"
            "      Takes: auto | shiny | matt (not in this release: cracked)\n");
  const std::string schema = tables_schema(keys);
  EXPECT_NE(schema.find("\"description\": \"How warm the toy is (kilns).\""), std::string::npos)
      << schema;
  EXPECT_NE(schema.find("\"maximum\": 1"), std::string::npos) << schema;
  EXPECT_EQ(schema.find("cracked"), std::string::npos) << schema;
}

}  // namespace
}  // namespace thimble::job
