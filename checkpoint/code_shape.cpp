#include "checkpoint/code_shape.h"

#include <algorithm>
#include <charconv>

#include "core/base/error.h"
#include "core/base/numeric.h"
#include "core/base/text.h"

namespace thimble {
namespace {

constexpr int kAutoGroupNodes = 8;
constexpr int kAutoParity = 2;

/// A positive number without sign, blanks or leading zeros; 0 for anything else.
int positive_number(std::string_view text) {
  int value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  const bool plain =
      error == std::errc() && end == text.data() + text.size() && value > 0 && text.front() != '0';
  return plain ? value : 0;
}

/// "K+M with K + M = 2, 4 or 8": the sizes of equal groups that `num_nodes` nodes can form.
std::string allowed_sizes(int num_nodes) {
  std::vector<std::string> sizes;
  for (int size = 2; size <= std::min(num_nodes, kMaxCodeNodes); ++size) {
    if (num_nodes % size == 0) sizes.push_back(std::to_string(size));
  }
  if (sizes.empty()) return {};
  std::string last = sizes.back();
  sizes.pop_back();
  return fmt::format("K+M with K + M = {}{}{}, ", join(sizes), sizes.empty() ? "" : " or ", last);
}

std::vector<CodeGroup> automatic_groups(int num_nodes) {
  if (num_nodes == 1) return {};
  if (num_nodes <= 3) return {{0, {num_nodes - 1, 1}}};
  const auto num_groups = static_cast<int>(ceil_div(num_nodes, kAutoGroupNodes));
  std::vector<CodeGroup> groups;
  int first = 0;
  for (int i = 0; i < num_groups; ++i) {
    const int size = num_nodes / num_groups + (i < num_nodes % num_groups ? 1 : 0);
    groups.push_back({first, {size - kAutoParity, kAutoParity}});
    first += size;
  }
  return groups;
}

double choose(int n, int k) {
  double result = 1.0;
  for (int i = 1; i <= k; ++i) result *= static_cast<double>(n - k + i) / i;
  return result;
}

}  // namespace

std::string to_string(CodeShape shape) {
  return fmt::format("{}+{}", shape.data, shape.parity);
}

CodeShape parse_code_shape(std::string_view text, std::string_view field) {
  const std::size_t plus = text.find('+');
  const int data = positive_number(text.substr(0, plus));
  const int parity = plus == text.npos ? 0 : positive_number(text.substr(plus + 1));
  if (data == 0 || parity == 0 || data > kMaxCodeNodes - parity) {
    throw_user(
        "{}: '{}' is no code; allowed are auto, none and K+M, such as 6+2: groups of K + M nodes "
        "(at "
        "most {}) of which any M can be lost",
        field, printable(text), kMaxCodeNodes);
  }
  return {data, parity};
}

std::vector<CodeGroup> code_groups(std::string_view text, int num_nodes, std::string_view field) {
  TH_CHECK(num_nodes >= 1);
  if (text == "none") return {};
  if (text == "auto") return automatic_groups(num_nodes);
  const CodeShape shape = parse_code_shape(text, field);
  if (num_nodes % shape.num_nodes() != 0) {
    throw_user(
        "{}: {} makes groups of {} nodes, and the job has {}; allowed here are {}auto and none",
        field, to_string(shape), shape.num_nodes(), num_nodes, allowed_sizes(num_nodes));
  }
  std::vector<CodeGroup> groups;
  for (int first = 0; first < num_nodes; first += shape.num_nodes())
    groups.push_back({first, shape});
  return groups;
}

const CodeGroup* find_group(const std::vector<CodeGroup>& groups, int node) {
  for (const CodeGroup& group : groups) {
    if (node >= group.first_node && node < group.first_node + group.shape.num_nodes())
      return &group;
  }
  return nullptr;
}

double survival_probability(const std::vector<CodeGroup>& groups, int num_lost) {
  TH_CHECK(num_lost >= 0);
  int num_nodes = 0;
  // survivable[f]: the number of sets of f nodes that lose nothing.
  std::vector<double> survivable{1.0};
  for (const CodeGroup& group : groups) {
    const int size = group.shape.num_nodes();
    num_nodes += size;
    std::vector<double> next(survivable.size() + static_cast<std::size_t>(group.shape.parity), 0.0);
    for (std::size_t f = 0; f < survivable.size(); ++f) {
      for (int j = 0; j <= group.shape.parity; ++j) {
        next[f + static_cast<std::size_t>(j)] += survivable[f] * choose(size, j);
      }
    }
    survivable = std::move(next);
  }
  TH_CHECK(num_lost <= num_nodes, "{} of {} nodes", num_lost, num_nodes);
  const auto lost = static_cast<std::size_t>(num_lost);
  return lost < survivable.size() ? survivable[lost] / choose(num_nodes, num_lost) : 0.0;
}

}  // namespace thimble
