// SHA-256 against the examples of its standard, in pieces of all sizes.
#include "core/base/sha256.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace thimble {
namespace {

std::string hash_in_pieces(std::string_view text, std::size_t piece) {
  Sha256 hash;
  for (std::size_t at = 0; at < text.size(); at += piece)
    hash.add(std::as_bytes(std::span(text.substr(at, std::min(piece, text.size() - at)))));
  return hex_of(hash.finish());
}

TEST(Sha256, GivesTheStandardsExamples) {
  // FIPS 180-4's, of NIST's "Secure Hashing" pages; of lengths around a block; of many blocks.
  const std::vector<std::pair<std::string, std::string>> known{
      {"", "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"},
      {"abc", "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"},
      {"abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq",
       "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1"},
      {std::string(1'000'000, 'a'),
       "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0"}};
  for (const auto& [text, want] : known) {
    for (const std::size_t piece : {1u, 55u, 63u, 64u, 65u, 1'000'000u})
      EXPECT_EQ(hash_in_pieces(text, piece), want) << text.size() << " in " << piece;
  }
  // What is split elsewhere is the same, at every length around a block.
  for (std::size_t size = 50; size < 135; ++size) {
    const std::string text(size, 'x');
    EXPECT_EQ(hash_in_pieces(text, 7), hash_in_pieces(text, size)) << size;
  }
}

}  // namespace
}  // namespace thimble
