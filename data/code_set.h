// Sets of Unicode code points as sorted ranges. Surrogates are in a set or not as it comes: no text
// has them.
#pragma once

#include <cstdint>
#include <initializer_list>
#include <span>
#include <vector>

namespace thimble {

inline constexpr std::int32_t kLastCode = 0x10FFFF;

class CodeSet {
 public:
  struct Range {
    std::int32_t first;
    std::int32_t last;
    bool operator==(const Range&) const = default;
  };

  CodeSet() = default;
  /// In any order; they may overlap.
  explicit CodeSet(std::vector<Range> ranges);
  CodeSet(std::initializer_list<Range> ranges) : CodeSet(std::vector<Range>(ranges)) {}

  static CodeSet of(std::int32_t code) { return {{code, code}}; }

  bool contains(std::int32_t code) const;
  bool empty() const { return ranges_.empty(); }
  std::span<const Range> ranges() const { return ranges_; }

  CodeSet operator|(const CodeSet& other) const;
  CodeSet operator&(const CodeSet& other) const;
  CodeSet operator-(const CodeSet& other) const { return *this & ~other; }
  CodeSet operator~() const;
  bool operator==(const CodeSet&) const = default;

 private:
  std::vector<Range> ranges_;  // sorted, neither overlapping nor touching
};

}  // namespace thimble
