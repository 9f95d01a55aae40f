// A parsed template: expressions and statements, each with its line.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "data/template/value.h"

namespace thimble::jinja {

enum class ExprKind : std::uint8_t {
  kLiteral,    // literal
  kName,       // name
  kList,       // operands
  kTuple,      // operands
  kDict,       // operands: key, value, key, value, ...
  kAttribute,  // operands[0] . name
  kItem,       // operands[0] [ operands[1] ]
  kSlice,      // operands[0] [ operands[1] : operands[2] : operands[3] ], null where nothing stands
  kCall,       // operands[0] ( operands[1...], named )
  kFilter,     // operands[0] | name ( operands[1...], named )
  kTest,       // operands[0] is name operands[1...]
  kNot,
  kNegate,
  kPlus,  // the sign
  kAnd,
  kOr,
  kCondition,  // operands[0] if operands[1] else operands[2], which may be null
  kBinary,     // operands[0] name operands[1]
  kCompare,    // operands[0] names[0] operands[1] names[1] operands[2] ...
  kConcat,     // ~
};

struct Expr;
using ExprPtr = std::unique_ptr<Expr>;

struct Expr {
  ExprKind kind = ExprKind::kLiteral;
  int line = 1;
  int depth = 1;  // of the nodes below, this one included; bounded by the parser
  Value literal;
  std::string name;
  std::vector<std::string> names;
  std::vector<ExprPtr> operands;
  std::vector<std::pair<std::string, ExprPtr>> named;
};

enum class StmtKind : std::uint8_t {
  kText,         // name
  kPrint,        // expr
  kIf,           // expr, body, otherwise
  kFor,          // targets in expr if condition: body, otherwise
  kSet,          // targets = expr, or one target . attribute
  kSetBlock,     // targets[0] = body, through expr (a filter of an empty place) if there is one
  kMacro,        // name, targets with defaults, body
  kGeneration,   // body: what the model says
  kFilterBlock,  // body through expr
  kWith,         // targets = values, body
  kBreak,
  kContinue,
};

struct Stmt;
using StmtPtr = std::unique_ptr<Stmt>;
using Block = std::vector<StmtPtr>;

struct Stmt {
  StmtKind kind = StmtKind::kText;
  int line = 1;
  std::string name;  // text; a macro's name; the attribute of a set
  std::vector<std::string> targets;
  ExprPtr expr, condition;
  std::vector<ExprPtr> values;  // defaults of a macro's last parameters; values of with
  Block body, otherwise;
};

/// An expression that stands for what a filter of a block is given.
inline constexpr const char* kBlockPlace = " block";

}  // namespace thimble::jinja
