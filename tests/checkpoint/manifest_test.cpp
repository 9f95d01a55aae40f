#include "checkpoint/manifest.h"

#include <gtest/gtest.h>

#include "core/base/error.h"
#include "core/io/crc32c.h"
#include "tests/io/temp_dir.h"

namespace thimble {
namespace {

Manifest sample() {
  return {"00ff", 5, "data-0.h5", (4 << 20) + 1, {1, 0xdeadbeef}, {{"a\"b", "master", 4096, 12}}};
}

/// The lines with a fresh checksum line, as one who tampers with intent would write them.
std::string sealed(const std::string& lines) {
  return lines + fmt::format("{{\"manifest_crc32c\":\"{:08x}\"}}\n",
                             crc32c(std::as_bytes(std::span(lines))));
}

void expect_refused(const std::string& lines, std::string_view text) {
  EXPECT_THROWS_WITH(UserError, text, parse_manifest(sealed(lines), "M"));
}

TEST(Manifest, SurvivesItsText) {
  EXPECT_EQ(parse_manifest(manifest_text(sample()), "M"), sample());
  Manifest empty{"u", 0, "data-0.h5", 0, {}, {}};
  EXPECT_EQ(parse_manifest(manifest_text(empty), "M"), empty);
}

TEST(Manifest, AnyFlippedByteTruncationOrAdditionIsDetected) {
  const std::string text = manifest_text(sample());
  for (std::size_t i = 0; i < text.size(); ++i) {
    for (int bit = 0; bit < 8; ++bit) {
      std::string changed = text;
      changed[i] = static_cast<char>(changed[i] ^ (1 << bit));
      EXPECT_THROWS_WITH(UserError, "M: the manifest is damaged", parse_manifest(changed, "M"));
    }
    EXPECT_THROWS_WITH(UserError, "M: the manifest is", parse_manifest(text.substr(0, i), "M"));
  }
  EXPECT_THROWS_WITH(UserError, "M: the manifest is damaged", parse_manifest(text + "\n", "M"));
}

TEST(Manifest, RefusesWellSealedNonsense) {
  const std::string head =
      R"({"format":"thimble-checkpoint","major":1,"minor":9,"uuid":"u","step":1,"block_bytes":4194304})"
      "\n";
  const std::string data = R"({"file":"data-0.h5","bytes":8,"crc32c":"00000000"})"
                           "\n";
  EXPECT_NO_THROW(parse_manifest(sealed(head + data), "M"));
  expect_refused("x", "M: the manifest has too few lines");
  expect_refused(head, "too few lines");
  expect_refused("{\n", "malformed JSON");
  expect_refused("[]\n", "line 1: an object is expected");
  expect_refused("{\"format\":\"other\"}\n", "'format' is not thimble-checkpoint");
  expect_refused(R"({"format":"thimble-checkpoint","major":2})"
                 "\n",
                 "version 2 is not known; 1 is");
  expect_refused(R"({"format":"thimble-checkpoint","major":1,"block_bytes":1})"
                 "\n",
                 "'block_bytes' must be 4194304");
  expect_refused(head + R"({"file":"../x","bytes":0,"crc32c":""})"
                        "\n",
                 "same directory");
  expect_refused(head + R"({"file":"x","bytes":9,"crc32c":""})"
                        "\n",
                 "0 checksums for 1 blocks");
  expect_refused(head + R"({"file":"x","bytes":9223372036854775807,"crc32c":""})"
                        "\n",
                 "0 checksums for 2199023255552 blocks");
  expect_refused(head + R"({"file":"x","bytes":9,"crc32c":"0000000g"})"
                        "\n",
                 "checksum 0 is not 8");
  expect_refused(head + R"({"file":"x","bytes":9,"crc32c":"000"})"
                        "\n",
                 "checksum 0 is not 8");
  expect_refused(head + data +
                     R"({"tensor":"a","slot":"b","offset":8,"bytes":1})"
                     "\n",
                 "tensor 'a/b' does not lie in the data file");
}

}  // namespace
}  // namespace thimble
