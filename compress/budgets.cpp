#include "compress/budgets.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "core/base/numeric.h"

namespace thimble {
namespace {

// A score for ordering: what always stays comes first, NaN last.
float rank_of(const HeadScores& head, std::int64_t index) {
  const auto count = static_cast<std::int64_t>(head.scores.size());
  if (head.positions[static_cast<std::size_t>(index)] < head.sinks || index >= count - head.window)
    return std::numeric_limits<float>::infinity();
  const float score = head.scores[static_cast<std::size_t>(index)];
  return std::isnan(score) ? -std::numeric_limits<float>::infinity() : score;
}

struct Candidate {
  float rank;
  std::size_t head;
  std::int64_t index;
};

// Best first; of equal ranks the earlier.
bool is_better(const Candidate& a, const Candidate& b) {
  if (a.rank != b.rank) return a.rank > b.rank;
  return a.head != b.head ? a.head < b.head : a.index < b.index;
}

std::vector<Candidate> candidates_of(const HeadScores& head, std::size_t number) {
  std::vector<Candidate> out;
  for (std::int64_t i = 0; i < static_cast<std::int64_t>(head.scores.size()); ++i)
    out.push_back({rank_of(head, i), number, i});
  return out;
}

// Puts the best `count` first, in any order.
std::size_t best_to_front(std::vector<Candidate>& candidates, std::int64_t count) {
  const std::size_t n =
      std::min(candidates.size(), static_cast<std::size_t>(std::max<std::int64_t>(count, 0)));
  std::nth_element(candidates.begin(), candidates.begin() + static_cast<std::ptrdiff_t>(n),
                   candidates.end(), is_better);
  return n;
}

}  // namespace

std::vector<std::int64_t> pyramid_budgets(std::int64_t budget, std::int64_t held,
                                          const KvShape& shape) {
  constexpr double kBeta = 20;
  const std::int64_t layers = shape.layers;
  if (layers == 1 || budget <= held || budget >= shape.capacity)
    return std::vector<std::int64_t>(static_cast<std::size_t>(layers), budget);
  const auto average = static_cast<double>(budget - held);
  double last = std::max(1.0, average / kBeta), first = 2 * average - last;
  const auto most = static_cast<double>(shape.capacity - held);
  if (first > most) {
    first = most;
    last = 2 * average - first;
  }
  std::vector<std::int64_t> budgets;
  std::int64_t dealt = 0;
  for (std::int64_t l = 0; l < layers; ++l) {
    // The sum over the layers so far, rounded: so the sum over all is exact.
    const auto n = static_cast<double>(l + 1);
    const double step = (first - last) / static_cast<double>(layers - 1);
    const auto until = static_cast<std::int64_t>(std::llround(n * first - step * n * (n - 1) / 2));
    budgets.push_back(held + until - dealt);
    dealt = until;
  }
  return budgets;
}

std::vector<std::vector<std::int64_t>> keep_even(std::span<const HeadScores> heads,
                                                 std::int64_t budget) {
  std::vector<std::vector<std::int64_t>> kept;
  for (const HeadScores& head : heads) {
    std::vector<Candidate> all = candidates_of(head, 0);
    const std::size_t n = best_to_front(all, budget);
    std::vector<std::int64_t>& mine = kept.emplace_back();
    for (std::size_t i = 0; i < n; ++i) mine.push_back(all[i].index);
    std::sort(mine.begin(), mine.end());
  }
  return kept;
}

std::vector<std::vector<std::int64_t>> keep_adaptive(std::span<const HeadScores> heads,
                                                     std::int64_t budget, double safeguard) {
  std::vector<std::vector<std::int64_t>> kept(heads.size());
  std::vector<Candidate> rest;
  std::int64_t left = budget * static_cast<std::int64_t>(heads.size());
  const auto safe = static_cast<std::int64_t>(safeguard * static_cast<double>(budget));
  for (std::size_t h = 0; h < heads.size(); ++h) {
    std::vector<Candidate> all = candidates_of(heads[h], h);
    const std::size_t sure = best_to_front(all, safe);
    for (std::size_t i = 0; i < all.size(); ++i) {
      // What always stays has the highest rank of all.
      if (i < sure || all[i].rank == std::numeric_limits<float>::infinity()) {
        kept[h].push_back(all[i].index);
      } else {
        rest.push_back(all[i]);
      }
    }
    left -= static_cast<std::int64_t>(kept[h].size());
  }
  const std::size_t taken = best_to_front(rest, left);
  for (std::size_t i = 0; i < taken; ++i) kept[rest[i].head].push_back(rest[i].index);
  for (std::vector<std::int64_t>& each : kept) std::sort(each.begin(), each.end());
  return kept;
}

}  // namespace thimble
