// Rows of choices in which every two values of different factors that go together occur together:
// nearly as much is found as by all rows, which would be thousands of times as many.
#pragma once

#include <algorithm>
#include <functional>
#include <numeric>
#include <optional>
#include <random>
#include <set>
#include <utility>
#include <vector>

namespace thimble {

/// The number of a value, by factor; kOpen: not chosen yet.
using CoveringRow = std::vector<int>;
inline constexpr int kOpen = -1;

class CoveringArray {
 public:
  /// `levels`: how many values each factor has. allowed(row): false if what is chosen of the row
  /// cannot be together, whatever the rest will be.
  CoveringArray(std::vector<int> levels, std::function<bool(const CoveringRow&)> allowed,
                unsigned seed)
      : levels_(std::move(levels)), allowed_(std::move(allowed)), random_(seed) {
    for (std::size_t f = 0; f < levels_.size(); ++f) {
      for (std::size_t g = f + 1; g < levels_.size(); ++g) add_pairs(f, g);
    }
    while (!open_.empty()) {
      const Pair pair = *open_.begin();
      CoveringRow row(levels_.size(), kOpen);
      row[pair.first.first] = pair.first.second;
      row[pair.second.first] = pair.second.second;
      if (!allowed_(row) || !fill(row)) {
        impossible_.push_back(row);
        open_.erase(pair);
        continue;
      }
      cover(row);
      rows_.push_back(std::move(row));
    }
  }

  const std::vector<CoveringRow>& rows() const { return rows_; }
  /// Pairs that no row can have, with all else open or as it was tried.
  std::size_t num_impossible() const { return impossible_.size(); }
  std::size_t num_pairs() const { return num_pairs_; }

 private:
  using Value = std::pair<std::size_t, int>;  // of a factor
  using Pair = std::pair<Value, Value>;

  void add_pairs(std::size_t f, std::size_t g) {
    for (int i = 0; i < levels_[f]; ++i) {
      for (int j = 0; j < levels_[g]; ++j) open_.insert({{f, i}, {g, j}});
    }
    num_pairs_ = open_.size();
  }

  // Pairs with what is chosen that no row has yet.
  int gain(const CoveringRow& row, Value value) const {
    int pairs = 0;
    for (std::size_t g = 0; g < row.size(); ++g) {
      if (row[g] == kOpen || g == value.first) continue;
      const Value other{g, row[g]};
      pairs +=
          static_cast<int>(open_.count(value < other ? Pair{value, other} : Pair{other, value}));
    }
    return pairs;
  }

  // Chooses what is open, first what covers the most; goes back where nothing is allowed.
  bool fill(CoveringRow& row) {
    std::vector<std::size_t> factors;
    for (std::size_t f = 0; f < row.size(); ++f) {
      if (row[f] == kOpen) factors.push_back(f);
    }
    if (factors.empty()) return true;
    const std::size_t factor = factors[random_() % factors.size()];
    std::vector<int> values(static_cast<std::size_t>(levels_[factor]));
    std::iota(values.begin(), values.end(), 0);
    std::shuffle(values.begin(), values.end(), random_);
    std::vector<int> gains(values.size());
    for (const int value : values)
      gains[static_cast<std::size_t>(value)] = gain(row, {factor, value});
    std::stable_sort(values.begin(), values.end(), [&](int a, int b) {
      return gains[static_cast<std::size_t>(a)] > gains[static_cast<std::size_t>(b)];
    });
    for (const int value : values) {
      row[factor] = value;
      CoveringRow rest = row;
      if (allowed_(row) && fill(rest)) {
        row = std::move(rest);
        return true;
      }
    }
    row[factor] = kOpen;
    return false;
  }

  void cover(const CoveringRow& row) {
    for (std::size_t f = 0; f < row.size(); ++f) {
      for (std::size_t g = f + 1; g < row.size(); ++g) open_.erase({{f, row[f]}, {g, row[g]}});
    }
  }

  std::vector<int> levels_;
  std::function<bool(const CoveringRow&)> allowed_;
  std::mt19937 random_;
  std::set<Pair> open_;
  std::size_t num_pairs_ = 0;
  std::vector<CoveringRow> rows_, impossible_;
};

}  // namespace thimble
