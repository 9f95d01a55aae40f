// How many nodes' memory may be lost: the shape k+m of an erasure code, and the groups that it
// makes of a job's nodes. Every node of a group of k+m keeps its own state and m/k as many bytes of
// parity of the others, and any m of them can be lost. k = 1 is replication.
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace thimble {

/// k data blocks and m parity blocks in every stripe; k + m nodes in a group.
struct CodeShape {
  int data = 1;
  int parity = 1;

  int num_nodes() const { return data + parity; }
  bool operator==(const CodeShape&) const = default;
};

/// A code over GF(2^8) has no more blocks in a stripe.
inline constexpr int kMaxCodeNodes = 256;

/// "6+2"
std::string to_string(CodeShape shape);

/// The shape "K+M", both at least 1, K + M at most kMaxCodeNodes. UserError naming `field`.
CodeShape parse_code_shape(std::string_view text, std::string_view field);

/// Nodes first_node to first_node + shape.num_nodes() - 1 protect each other.
struct CodeGroup {
  int first_node = 0;
  CodeShape shape;

  bool operator==(const CodeGroup&) const = default;
};

/// The groups of `num_nodes` nodes, in order, for the value `text` of the key `field`:
///   "none"  no groups: what a node's memory holds is lost with the node;
///   "K+M"   groups of K+M neighbours; their size must divide the number of nodes;
///   "auto"  one node: none. 2 or 3: one group (n-1)+1. From 4 on as few groups as possible of at
///           most 8 nodes, of sizes that differ by one at most, with 2 parity each: 4 nodes 2+2,
///           8 nodes 6+2, 9 nodes 3+2 and 2+2.
/// UserError naming `field` and the shapes that the number of nodes allows.
std::vector<CodeGroup> code_groups(std::string_view text, int num_nodes, std::string_view field);

/// The group of a node, or null if it is in none.
const CodeGroup* find_group(const std::vector<CodeGroup>& groups, int node);

/// The probability that no group loses more nodes than its parity, when `num_lost` of the nodes of
/// all groups fail at once, each set of nodes as likely as any other: the coefficient of x^num_lost
/// in the product over groups of sum_{j <= m} C(k+m, j) x^j, divided by C(nodes, num_lost). With
/// k = 1 it is what Wang et al. 2023 (Gemini, SOSP) derive for groups of replicas.
double survival_probability(const std::vector<CodeGroup>& groups, int num_lost);

}  // namespace thimble
