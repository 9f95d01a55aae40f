// Cutting and replacing by patterns.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "data/tokenizer_regex.h"

namespace thimble {

/// What becomes of the matches of a splitting pattern.
enum class SplitBehavior { kRemoved, kIsolated, kMergedWithPrevious, kMergedWithNext, kContiguous };

struct SplitStage {
  TokenRegex regex;
  SplitBehavior behavior = SplitBehavior::kIsolated;
  bool invert = false;  // what does not match plays the part of the matches
};

/// Cuts `text` (well-formed UTF-8) into pieces that are not empty, in order, by the rules of
/// `stage`. A match of nothing cuts where it stands.
std::vector<TokenRegex::Match> split_ranges(const SplitStage& stage, std::string_view text);

/// `text` with every match replaced by `content`, which also goes where nothing is matched.
std::string replace_matches(const TokenRegex& regex, std::string_view text,
                            std::string_view content);

}  // namespace thimble
