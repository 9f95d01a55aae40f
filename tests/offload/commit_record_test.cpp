#include "offload/commit_record.h"

#include <gtest/gtest.h>

#include <random>

#include "core/base/error.h"
#include "core/io/crc32c.h"
#include "tests/io/temp_dir.h"

namespace thimble {
namespace {

using testing::message_of;
using testing::TempDir;
using testing::write_bytes;

CommitRecord sample_record() {
  return {.identity = "run \"7\"\n of äöü",
          .generation = 41,
          .step = 40,
          .torn = false,
          .note = "{\"tokens\":3}",
          .layout = 0xFFFFFFFF,
          .files = {"state-0.h5", "state-3.h5"},
          .keys = {{.name = "a/master", .bytes = 0, .file = -1, .runs = {}},
                   {.name = "b/exp_avg", .bytes = 12, .file = -1, .runs = {}},
                   {.name = "c", .bytes = 9, .file = 1, .runs = {{0, 4, 7}, {4, 9, 0xFFFFFFFF}}},
                   {.name = "d",
                    .bytes = kRunBytes + 1,
                    .file = 0,
                    .runs = {{0, kRunBytes, 0}, {kRunBytes, kRunBytes + 1, 1}}}}};
}

// The lines under a checksum that is right.
std::string with_checksum(const std::string& lines) {
  return lines + fmt::format("{{\"crc32c\":{}}}\n", crc32c(std::as_bytes(std::span(lines))));
}

const char* const kHead =
    R"({"format":"thimble-offload-1","identity":"i","generation":1,"step":1,"torn":false,)"
    R"("layout":0,"files":["f"],"keys":1,"note":""})";

std::string replaced(std::string text, const std::string& what, const std::string& by) {
  const std::size_t at = text.find(what);
  EXPECT_NE(at, text.npos) << what;
  return text.replace(at, what.size(), by);
}

std::string why_refused(const std::string& head, const std::string& key) {
  const std::string lines = head + "\n" + (key.empty() ? "" : key + "\n");
  return message_of<UserError>([&] { parse_commit(with_checksum(lines), "the record"); });
}

TEST(CommitRecordTest, ComesBackAsItWas) {
  CommitRecord record = sample_record();
  EXPECT_EQ(parse_commit(commit_text(record), "r"), record);
  record.torn = true;
  EXPECT_EQ(parse_commit(commit_text(record), "r"), record);
  EXPECT_EQ(parse_commit(commit_text({}), "r"), CommitRecord());
}

TEST(CommitRecordTest, NoByteChangesUnseen) {
  const std::string text = commit_text(sample_record());
  for (std::size_t i = 0; i < text.size(); ++i) {
    for (const int flip : {1, 0x20, 0x80}) {
      std::string damaged = text;
      damaged[i] = static_cast<char>(damaged[i] ^ flip);
      EXPECT_THROWS_WITH(UserError, "the file: ", parse_commit(damaged, "the file")) << i;
    }
  }
}

TEST(CommitRecordTest, NothingIsMissingUnseen) {
  const std::string text = commit_text(sample_record());
  for (std::size_t size = 0; size < text.size(); ++size) {
    EXPECT_THROWS_WITH(UserError, "the file: ", parse_commit(text.substr(0, size), "the file"));
    EXPECT_THROWS_WITH(UserError, "the file: ", parse_commit(text.substr(size + 1), "the file"));
  }
  EXPECT_THROWS_WITH(UserError, "the file: ", parse_commit(text + "\n", "the file"));
  EXPECT_THROWS_WITH(UserError, "the file: ", parse_commit(text + text, "the file"));
  EXPECT_THROWS_WITH(UserError, "the file: ", parse_commit("\n\n\n", "the file"));
}

TEST(CommitRecordTest, ALineMoreOrLessIsRefusedWhateverTheChecksum) {
  std::string lines = commit_text(sample_record());
  lines.resize(lines.rfind('\n', lines.size() - 2) + 1);
  EXPECT_EQ(parse_commit(with_checksum(lines), "r"), sample_record());
  for (std::size_t begin = 0; begin < lines.size();) {
    const std::size_t end = lines.find('\n', begin) + 1;
    const std::string line = lines.substr(begin, end - begin);
    EXPECT_NE(message_of<UserError>([&] {
                parse_commit(with_checksum(std::string(lines).erase(begin, end - begin)), "r");
              }),
              "(nothing was thrown)")
        << line;
    EXPECT_NE(message_of<UserError>([&] {
                parse_commit(with_checksum(std::string(lines).insert(begin, line)), "r");
              }),
              "(nothing was thrown)")
        << line;
    begin = end;
  }
}

TEST(CommitRecordTest, HostileValuesOfTheFirstLineAreNamed) {
  const std::string key = R"({"name":"k","bytes":0,"file":0,"ends":[],"crc32c":[]})";
  EXPECT_EQ(why_refused(kHead, key), "(nothing was thrown)");
  const auto refused = [&](const char* what, const char* by) {
    return why_refused(replaced(kHead, what, by), key);
  };
  const char* const kNothing = "(nothing was thrown)";
  EXPECT_NE(refused("offload-1", "offload-2").find("'format'"), std::string::npos);
  for (const char* number : {"-1", "1.5", "\"1\"", "null", "1e3", "18446744073709551616"}) {
    EXPECT_NE(refused("\"generation\":1", fmt::format("\"generation\":{}", number).c_str()),
              kNothing);
    EXPECT_NE(refused("\"step\":1", fmt::format("\"step\":{}", number).c_str()), kNothing);
    EXPECT_NE(refused("\"keys\":1", fmt::format("\"keys\":{}", number).c_str()), kNothing);
    EXPECT_NE(refused("\"layout\":0", fmt::format("\"layout\":{}", number).c_str()), kNothing);
  }
  EXPECT_NE(refused("\"keys\":1", "\"keys\":9223372036854775807").find("too few lines"),
            std::string::npos);
  EXPECT_NE(refused("\"keys\":1", "\"keys\":0").find("too many lines"), std::string::npos);
  for (const char* torn : {"1", "\"true\"", "null", "[]"})
    EXPECT_NE(refused("\"torn\":false", fmt::format("\"torn\":{}", torn).c_str()), kNothing)
        << torn;
  EXPECT_NE(refused("\"torn\":false,", ""), kNothing);
  for (const char* files : {"{}", "\"f\"", "[1]", "[\"a/b\"]", "[\"..\"]", "[\"\"]", "[null]",
                            "null", "[\"f\",\"f\"]", "[\"a\\u0000b\"]"})
    EXPECT_NE(refused("[\"f\"]", files), kNothing) << files;
  EXPECT_NE(refused("\"layout\":0", "\"layout\":4294967296"), kNothing);
  EXPECT_NE(refused("\"note\":\"\"", "\"note\":7"), kNothing);
  EXPECT_NE(refused("\"identity\":\"i\",", ""), kNothing);
  EXPECT_NE(why_refused("[]", ""), kNothing);
  EXPECT_NE(why_refused(std::string(100'000, '['), ""), kNothing);
  EXPECT_NE(why_refused("", ""), kNothing);
}

TEST(CommitRecordTest, HostileValuesOfAKeyAreNamed) {
  const std::string key = R"({"name":"k","bytes":9,"file":1,"ends":[4,9],"crc32c":[1,2]})";
  const char* const kNothing = "(nothing was thrown)";
  EXPECT_EQ(why_refused(kHead, key), kNothing);
  const auto refused = [&](const char* what, const char* by) {
    return why_refused(kHead, replaced(key, what, by));
  };
  EXPECT_NE(refused("\"k\"", "1"), kNothing);
  for (const char* bytes : {"8", "10", "-9", "9223372036854775807", "18446744073709551615", "9.0"})
    EXPECT_NE(refused("\"bytes\":9", fmt::format("\"bytes\":{}", bytes).c_str()), kNothing)
        << bytes;
  for (const char* file : {"0", "2", "-1", "2147483648", "4294967296", "4294967297",
                           "9223372036854775807", "\"f\"", "null"})
    EXPECT_NE(refused("\"file\":1", fmt::format("\"file\":{}", file).c_str()), kNothing) << file;
  for (const char* ends :
       {"[9,4]", "[4,4]", "[0,9]", "[-4,9]", "[4]", "[4,9,9]", "[4,\"9\"]", "[4,9.0]", "9", "{}",
        "[4,18446744073709551615]", "[-9223372036854775808,9]", "[[4],9]", "[4,null]"})
    EXPECT_NE(refused("[4,9]", ends), kNothing) << ends;
  for (const char* crcs :
       {"[1]", "[1,2,3]", "[-1,2]", "[1,4294967296]", "[1,1.5]", "{}", "[1,[2]]"})
    EXPECT_NE(refused("[1,2]", crcs), kNothing) << crcs;
  const std::string longest =
      replaced(replaced(key, "\"bytes\":9", fmt::format("\"bytes\":{}", kRunBytes + 1)), "[4,9]",
               fmt::format("[{}]", kRunBytes + 1));
  EXPECT_NE(why_refused(kHead, replaced(longest, "[1,2]", "[1]")), kNothing)
      << "a run too long for the memory that reads it";
  EXPECT_NE(why_refused(kHead, "7"), kNothing);
  EXPECT_NE(why_refused(replaced(kHead, "\"keys\":1", "\"keys\":2"), key + "\n" + key), kNothing)
      << "one key twice";
}

TEST(CommitRecordTest, RandomDamageNeverCrashes) {
  std::mt19937 random(8);
  std::string lines = commit_text(sample_record());
  lines.resize(lines.rfind('\n', lines.size() - 2) + 1);
  for (int i = 0; i < 3000; ++i) {
    std::string damaged = lines;
    for (std::size_t n = 1 + random() % 3; n > 0; --n) {
      const std::size_t at = random() % damaged.size();
      switch (random() % 3) {
        case 0:
          damaged[at] = static_cast<char>(random());
          break;
        case 1:
          damaged.erase(at, 1 + random() % 8);
          break;
        default:
          damaged.insert(at, 1 + random() % 4, "0123456789,[]{}\"-\n"[random() % 18]);
      }
      if (damaged.empty()) break;
    }
    try {
      static_cast<void>(parse_commit(with_checksum(damaged), "r"));
    } catch (const UserError&) {
      // It says what is wrong.
    }
  }
}

TEST(CommitRecordTest, TwoPlacesTakeTurns) {
  const TempDir dir;
  std::vector<std::string> rejected;
  EXPECT_TRUE(read_commits(dir.path(), 0, rejected).empty());
  CommitRecord record = sample_record();
  for (std::int64_t generation = 1; generation <= 5; ++generation) {
    record.generation = generation;
    write_commit(dir.path(), 2, record);
    const std::vector<CommitRecord> found = read_commits(dir.path(), 2, rejected);
    ASSERT_EQ(found.size(), generation == 1 ? 1u : 2u);
    EXPECT_EQ(found.front(), record);
    EXPECT_EQ(found.back().generation, std::max<std::int64_t>(1, generation - 1));
    EXPECT_TRUE(read_commits(dir.path(), 0, rejected).empty()) << "another rank's";
  }
  EXPECT_TRUE(rejected.empty());
}

TEST(CommitRecordTest, ADamagedRecordLeavesTheOther) {
  const TempDir dir;
  CommitRecord record = sample_record();
  write_commit(dir.path(), 0, record);
  ++record.generation;
  write_commit(dir.path(), 0, record);
  write_bytes(commit_path(dir.path(), 0, record.generation), "nonsense\n");
  std::vector<std::string> rejected;
  std::vector<CommitRecord> found = read_commits(dir.path(), 0, rejected);
  ASSERT_EQ(found.size(), 1u);
  EXPECT_EQ(found.front(), sample_record());
  ASSERT_EQ(rejected.size(), 1u);
  EXPECT_NE(rejected[0].find(commit_path(dir.path(), 0, record.generation).string()),
            std::string::npos);
  std::filesystem::remove(commit_path(dir.path(), 0, record.generation));
  std::filesystem::create_directory(commit_path(dir.path(), 0, record.generation));
  write_bytes(commit_path(dir.path(), 0, record.generation + 1), "");
  rejected.clear();
  EXPECT_TRUE(read_commits(dir.path(), 0, rejected).empty());
  EXPECT_EQ(rejected.size(), 2u);
}

}  // namespace
}  // namespace thimble
