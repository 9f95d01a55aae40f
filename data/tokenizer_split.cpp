#include "data/tokenizer_split.h"

namespace thimble {
namespace {

using Range = TokenRegex::Match;

/// Collects the parts of a text, matches and what lies between, into pieces.
class Pieces {
 public:
  explicit Pieces(const SplitStage& stage) : stage_(stage) {}

  void add(std::size_t begin, std::size_t end, bool matched) {
    matched = matched != stage_.invert;
    const bool extend = !ranges_.empty() && extends(matched);
    previous_matched_ = matched;
    if (stage_.behavior == SplitBehavior::kRemoved && matched) return;
    if (extend) {
      ranges_.back().end = end;
    } else {
      ranges_.push_back({begin, end});
    }
  }

  std::vector<Range> take() && {
    std::erase_if(ranges_, [](const Range& range) { return range.begin == range.end; });
    return std::move(ranges_);
  }

 private:
  bool extends(bool matched) const {
    switch (stage_.behavior) {
      case SplitBehavior::kMergedWithPrevious:
        return matched && !previous_matched_;
      case SplitBehavior::kMergedWithNext:
        return !matched && previous_matched_;
      case SplitBehavior::kContiguous:
        return matched == previous_matched_;
      case SplitBehavior::kRemoved:
      case SplitBehavior::kIsolated:
        break;
    }
    return false;
  }

  const SplitStage& stage_;
  std::vector<Range> ranges_;
  bool previous_matched_ = false;
};

}  // namespace

std::vector<Range> split_ranges(const SplitStage& stage, std::string_view text) {
  Pieces pieces(stage);
  std::size_t done = 0;
  TokenRegex::Search search;
  while (const auto match = stage.regex.next(text, search)) {
    if (done != match->begin) pieces.add(done, match->begin, false);
    pieces.add(match->begin, match->end, true);
    done = match->end;
  }
  if (done != text.size()) pieces.add(done, text.size(), false);
  return std::move(pieces).take();
}

std::string replace_matches(const TokenRegex& regex, std::string_view text,
                            std::string_view content) {
  // The reference looks for nothing in an empty text.
  if (text.empty()) return {};
  std::string out;
  std::size_t done = 0;
  TokenRegex::Search search;
  while (const auto match = regex.next(text, search)) {
    out += text.substr(done, match->begin - done);
    out += content;
    done = match->end;
  }
  out += text.substr(done);
  return out;
}

}  // namespace thimble
